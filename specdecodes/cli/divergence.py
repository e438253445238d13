"""Two runs of one prompt side by side: where their tokens part, and how many bits of their logits differ."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


@dataclass(frozen=True)
class Trace:
    """What a run emitted: `tokens`, and the raw target logits [len(tokens), vocab] that each was chosen from."""

    tokens: tuple[int, ...]
    rows: Tensor


@dataclass(frozen=True)
class Divergence:
    """The first place where two runs emitted another token; None stands for a run that had ended there."""

    index: int
    plain: int | None
    speculative: int | None
    margin: float | None
    """The plain run's largest logit less its second largest: near 0 means that rounding decided."""


@dataclass(frozen=True)
class Comparison:
    """Logit rows are compared up to where the tokens part, that row included; later ones follow other tokens."""

    tokens: int
    rows: int
    differing_rows: int
    differing_bits: int
    divergence: Divergence | None


def compare(plain: Trace, speculative: Trace) -> Comparison:
    """The first divergence of two runs, and the bits in which their logits differ before it."""
    divergence = _first(plain, speculative)
    shared = min(len(plain.tokens), len(speculative.tokens))
    rows = shared if divergence is None else min(divergence.index + 1, shared)
    bits = differing_bits(plain.rows[:rows], speculative.rows[:rows])
    return Comparison(shared, rows, int((bits > 0).sum()), int(bits.sum()), divergence)


def differing_bits(left: Tensor, right: Tensor) -> Tensor:
    """Bits [n] in which each row of `left` [n, vocab] differs from that of `right`; both have one dtype."""
    kind = _BITS[left.element_size()]
    changed = left.contiguous().view(kind) ^ right.contiguous().view(kind)
    octets = changed.view(torch.uint8).to(torch.int64)
    return sum(((octets >> bit) & 1).sum(-1) for bit in range(8)) + torch.zeros(len(left), dtype=torch.int64)


def _first(plain: Trace, speculative: Trace) -> Divergence | None:
    for index in range(max(len(plain.tokens), len(speculative.tokens))):
        left, right = _at(plain.tokens, index), _at(speculative.tokens, index)
        if left != right:
            return Divergence(index, left, right, _margin(plain.rows, index))
    return None


def _at(tokens: Sequence[int], index: int) -> int | None:
    return tokens[index] if index < len(tokens) else None


def _margin(rows: Tensor, index: int) -> float | None:
    if index >= len(rows):
        return None
    first, second = rows[index].float().topk(2).values.tolist()
    return first - second
