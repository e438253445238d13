"""How a token is chosen from logits, as a pure function of the request and the position.

The token is argmax(processed logits + Gumbel noise), and the noise of a position depends on (seed, position) alone:
plain and speculative runs throw the same dice, so sampled output is equal token for token. At temperature 0 there is
no noise.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from specdecodes.errors import ConfigError
from specdecodes.tree import TokenTree

ROWS_AT_ONCE = 32


def at_once(device: torch.device, rows: int) -> int:
    """Of `rows`, those whose tokens are chosen at once: on a GPU the dice of all would take more than a layer does."""
    return rows if device.type == "cpu" else min(rows, ROWS_AT_ONCE)


@dataclass(frozen=True)
class SamplingParams:
    """Settings of one request. `temperature=0` is greedy; `top_k=0`, `top_p=1` and `min_p=0` are off."""

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    seed: int = 0
    max_tokens: int = 512
    stop: tuple[str, ...] = ()
    ignore_eos: bool = False

    def __post_init__(self) -> None:
        checks = {
            "temperature": ("0 (greedy) or more", 0 <= self.temperature < math.inf),
            "top_k": ("0 (off) or more", self.top_k >= 0),
            "top_p": ("above 0 and at most 1 (off)", 0 < self.top_p <= 1),
            "min_p": ("at least 0 (off) and below 1", 0 <= self.min_p < 1),
            "repetition_penalty": ("above 0", 0 < self.repetition_penalty < math.inf),
            "seed": ("a number of 64 bits", -(1 << 63) <= self.seed < 1 << 63),
            "max_tokens": ("1 or more", self.max_tokens >= 1),
            "stop": ("without an empty string", all(self.stop)),
        }
        for name, (rule, holds) in checks.items():
            if not holds:
                raise ConfigError(f"{name} must be {rule}, not {asdict(self)[name]}.")

    @property
    def greedy(self) -> bool:
        return self.temperature == 0


class PositionNoise:
    """Standard Gumbel noise, one row a position: a pure function of (seed, position, token), equal on every device."""

    def __init__(self, seed: int, vocab_size: int, device: torch.device | str = "cpu") -> None:
        self._tokens = torch.arange(vocab_size, dtype=torch.int64, device=device)
        self._seed = _mix(torch.tensor(seed, dtype=torch.int64, device=device))

    def rows(self, positions: Tensor) -> Tensor:
        """Noise [n, vocab] in fp32 for `positions` [n] (int64): position p holds the dice of the token *at* p."""
        if positions.device.type != "cpu":  # where asking how many differ would wait for the device
            return self._rows(positions)
        # The nodes of a tree share few positions, and a position's dice take longer than all else about a token.
        distinct, places = positions.unique(return_inverse=True)
        return self._rows(distinct)[places]

    def _rows(self, positions: Tensor) -> Tensor:
        keys = _mix(self._seed ^ _mix(positions.to(torch.int64)))
        bits = _mix(keys[:, None] + self._tokens[None, :] * _GOLDEN)
        uniform = ((bits >> 12) & ((1 << 52) - 1)).to(torch.float64).add_(0.5).mul_(2.0**-52)
        return uniform.log_().neg_().log_().neg_().to(torch.float32)


# SplitMix64 (Steele, Lea, Flood 2014), in wrapping int64 arithmetic.
_GOLDEN = 0x9E3779B97F4A7C15 - (1 << 64)
_MIX_A = 0xBF58476D1CE4E5B9 - (1 << 64)
_MIX_B = 0x94D049BB133111EB - (1 << 64)


def _mix(x: Tensor) -> Tensor:
    x = x + _GOLDEN
    x = (x ^ _shift(x, 30)) * _MIX_A
    x = (x ^ _shift(x, 27)) * _MIX_B
    return x ^ _shift(x, 31)


def _shift(x: Tensor, bits: int) -> Tensor:
    """Logical right shift; torch's own is arithmetic."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def process(logits: Tensor, params: SamplingParams, seen: Tensor | None = None) -> Tensor:
    """Log-scores [n, vocab] in fp32 from raw `logits` [n, vocab]: penalty, temperature, then top-k, top-p, min-p.

    `seen` [n, vocab] (bool) marks the tokens of each row's own history; needed when there is a repetition penalty.
    Each row is computed from that row alone. Excluded tokens get -inf. Greedy requests only see the penalty.
    """
    scores = logits.float()
    if params.repetition_penalty != 1.0 and seen is not None:
        penalized = torch.where(scores > 0, scores / params.repetition_penalty, scores * params.repetition_penalty)
        scores = torch.where(seen, penalized, scores)
    if params.greedy:
        return scores
    scores = scores / params.temperature
    if params.top_k:
        kth = scores.topk(min(params.top_k, scores.shape[-1]), dim=-1).values[:, -1:]
        scores = scores.masked_fill(scores < kth, float("-inf"))
    if params.top_p < 1.0:
        scores = _keep_top_p(scores, params.top_p)
    if params.min_p:
        floor = scores.amax(-1, keepdim=True) + torch.log(torch.tensor(params.min_p))
        scores = scores.masked_fill(scores < floor, float("-inf"))
    return scores


def _keep_top_p(scores: Tensor, top_p: float) -> Tensor:
    """The smallest set of most probable tokens whose mass reaches top_p; the most probable one always stays."""
    ordered, order = scores.sort(dim=-1, descending=True, stable=True)
    before = ordered.softmax(-1).cumsum(-1) - ordered.softmax(-1)
    ordered = ordered.masked_fill(before >= top_p, float("-inf"))
    return torch.empty_like(scores).scatter_(-1, order, ordered)


def perturb(scores: Tensor, params: SamplingParams, noise: PositionNoise, positions: Tensor) -> Tensor:
    """`scores` [n, vocab] with the dice of `positions` [n] added; its argmax is the request's token there."""
    return scores if params.greedy else scores + noise.rows(positions)


class Sampler:
    """The choices of one request: its settings, its dice, and, for a repetition penalty, the tokens it has seen."""

    def __init__(self, params: SamplingParams, vocab_size: int, device: torch.device | str = "cpu") -> None:
        self.params = params
        self._noise = PositionNoise(params.seed, vocab_size, device)
        penalized = params.repetition_penalty != 1.0
        self._seen = torch.zeros(vocab_size, dtype=torch.bool, device=device) if penalized else None

    def forget(self) -> None:
        """A new request with the same settings: no history."""
        if self._seen is not None:
            self._seen.zero_()

    def observe(self, tokens: Sequence[int] | Tensor) -> None:
        """Count `tokens` [n] as history; no host sync for a tensor on the device."""
        if self._seen is not None:
            self._seen[tokens if isinstance(tokens, Tensor) else list(tokens)] = True

    def scores(self, logits: Tensor, positions: Tensor, paths: Tensor | None = None) -> Tensor:
        """What the request maximizes, [n, vocab] fp32, from raw `logits` [n, vocab] of the tokens *at* `positions` [n].

        `paths` [n, k] int64: tokens that precede each row beyond the observed history (a node's path in its tree).
        """
        seen = None
        if self._seen is not None:
            seen = self._seen.expand(logits.shape[0], -1)
            if paths is not None:
                seen = seen.scatter(1, paths, torch.ones_like(paths, dtype=torch.bool))
        return perturb(process(logits, self.params, seen), self.params, self._noise, positions)

    def node_scores(self, logits: Tensor, tree: TokenTree, nodes: slice | Tensor, length: int | Tensor) -> Tensor:
        """`scores` of the tokens after `nodes` of a tree whose root is at position `length`; no host sync."""
        paths = None
        if self._seen is not None:
            paths = torch.where(tree.ancestors[nodes], tree.tokens, tree.tokens[:1])
        return self.scores(logits, length + tree.depths[nodes] + 1, paths)

    def choices(self, logits: Tensor, tree: TokenTree, length: int) -> Tensor:
        """The request's own token after each node [size] of a tree whose root is at position `length`; no host sync."""
        step = at_once(logits.device, tree.size)
        parts = [slice(first, min(first + step, tree.size)) for first in range(0, tree.size, step)]
        return torch.cat([self.node_scores(logits[part], tree, part, length).argmax(-1) for part in parts])
