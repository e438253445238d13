"""The format of codec.h in torch operations, on any device: what the kernels are tested against, and what runs on an
accelerator that has no Triton."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

GROUP = 4096
HEADER, ENTRY, SLACK = 16, 24, 64
_CHUNK = 64  # groups expanded at a time: some 60 MB of indices


@dataclass(frozen=True)
class Planes:
    """Where the parts of a block of `weights` weights begin, in bytes."""

    groups: int
    low: int
    codes: int
    mantissas: int
    signs: int

    @classmethod
    def of(cls, weights: int, dtype: torch.dtype) -> Planes:
        half = dtype == torch.float16
        groups = -(-weights // GROUP)
        low = -(-(HEADER + groups * ENTRY) // 64) * 64
        codes = low + groups * GROUP
        mantissas = codes + groups * GROUP // 4
        signs = mantissas + half * groups * GROUP // 4
        return cls(groups, low, codes, mantissas, signs)


def expand(block: Tensor, out: Tensor, dtype: torch.dtype) -> None:
    """Restores the bytes `out` [n] of weights of `dtype` from an undamaged `block`, on the device of both."""
    planes = Planes.of(out.numel() // 2, dtype)
    words = out.view(torch.int16)
    for first in range(0, planes.groups, _CHUNK):
        groups = torch.arange(first, min(first + _CHUNK, planes.groups), device=block.device)
        target = words[first * GROUP : (first + len(groups)) * GROUP]
        target.copy_(_words(block, planes, groups, dtype).flatten()[: len(target)])


def _words(block: Tensor, planes: Planes, groups: Tensor, dtype: torch.dtype) -> Tensor:
    """[groups, GROUP] weights as int16."""
    places = groups[:, None] * GROUP + torch.arange(GROUP, device=block.device)
    exponents = _exponents(block, planes, groups, places)
    low = block[planes.low + places].int()
    if dtype == torch.bfloat16:
        return _int16((low & 0x80) << 8 | exponents << 7 | low & 0x7F)
    signs = block[planes.signs + places // 8].int() >> (places % 8) & 1
    return _int16(signs << 15 | exponents << 10 | _pair(block, planes.mantissas, places) << 8 | low)


def _int16(words: Tensor) -> Tensor:
    return (words - ((words & 0x8000) << 1)).short()


def _pair(block: Tensor, start: int | Tensor, places: Tensor) -> Tensor:
    """Two bits at each of `places`, counted from byte `start`."""
    return block[start + places // 4].int() >> (2 * (places % 4)) & 3


def _exponents(block: Tensor, planes: Planes, groups: Tensor, places: Tensor) -> Tensor:
    """[groups, GROUP]: every level looks up what it can, and counts the rest for the next one."""
    entries = block[HEADER + groups[:, None] * ENTRY + torch.arange(ENTRY, device=block.device)].int()
    tail = (entries[:, 0] | entries[:, 1] << 8 | entries[:, 2] << 16 | entries[:, 3] << 24)[:, None]
    counts = entries[:, 8:14:2] | entries[:, 9:14:2] << 8
    second, third = counts[:, 0:1], counts[:, 1:2]
    table = entries[:, 14:24].long()
    levels = ((tail, 3), (tail + (second + 3) // 4, 6))
    codes = _pair(block, planes.codes, places)
    exponents = table.gather(1, codes.long().clamp(max=2)).int()
    waiting = codes == 3
    for start, rank in levels:
        here = waiting & (second > 0)  # else exponents alone
        turn = waiting.cumsum(1).int() - 1
        codes = torch.where(here, _pair(block, start, turn.clamp(min=0) * here), 3)
        exponents = torch.where(here, table.gather(1, rank + codes.long().clamp(max=2)).int(), exponents)
        waiting = waiting & (codes == 3)
    start = tail + (second + 3) // 4 + (third + 3) // 4
    bare = block[start + (waiting.cumsum(1).int() - 1).clamp(min=0) * waiting].int()
    return torch.where(waiting, bare, exponents)
