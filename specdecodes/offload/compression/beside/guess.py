"""What a 4-bit substitute says of a weight: the buffers that its kernel holds anyway, read once more.

A weight's guess is `code * scale + offset` in layout LANES, `(code - 8) * scale + offset` in HALVES: exact in fp32
but for one rounding, so the same with fused multiply-adds and without, on every processor and device.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

LANES, HALVES = "lanes", "halves"
BLOCK = 16
"""Outputs that lie side by side in LANES."""


@dataclass(frozen=True)
class Guess:
    """The rows [first, first + rows) of a substitute, which may hold several weights one below the other.

    LANES, of linears on the CPU: packed [padded out * width / 2] uint8 in units of four blocks of sixteen outputs,
    eight inputs at a time; scale, offset [blocks, groups, 16] fp16. HALVES, of linears on CUDA: packed
    [out, width / 2] uint8, byte j has the codes of inputs j (low) and width / 2 + j; scale, offset [groups, out] fp16.
    Codes stand for themselves, on uniform steps. Raises ValueError for other buffers.
    """

    packed: Tensor
    scale: Tensor
    offset: Tensor
    layout: str
    first: int
    rows: int
    width: int

    def __post_init__(self) -> None:
        parts = (self.packed, self.scale, self.offset)
        kinds = [part.dtype for part in parts] == [torch.uint8, torch.float16, torch.float16]
        together = all(part.is_contiguous() and part.device == self.packed.device for part in parts)
        axes = {LANES: 3, HALVES: 2}.get(self.layout, 0)
        if not (kinds and together and self.scale.ndim == axes and self.scale.shape == self.offset.shape):
            raise ValueError(f"these are no 4-bit codes with fp16 scales and offsets in layout {self.layout}")
        if self.width % 8 or self.width % self.groups or self.group % 8:
            raise ValueError(f"{self.groups} groups of {self.width} inputs are not multiples of 8")
        if self.packed.numel() * 2 != self.held_rows * self.width:
            raise ValueError(f"{self.packed.numel()} bytes are not {self.held_rows} rows of {self.width} codes")
        if not 0 <= self.first <= self.first + self.rows <= self.held_rows:
            raise ValueError(f"rows {self.first} to {self.first + self.rows} are not among {self.held_rows}")

    @property
    def groups(self) -> int:
        """Of each row."""
        return max(self.scale.shape[1 if self.layout == LANES else 0], 1)

    @property
    def group(self) -> int:
        """Weights that share a scale and an offset."""
        return self.width // self.groups

    @property
    def held_rows(self) -> int:
        """Rows in the buffers: of other weights too, and what fills up the last block of LANES."""
        return self.scale.shape[0] * BLOCK if self.layout == LANES else self.scale.shape[1]

    @property
    def nbytes(self) -> int:
        """Bytes of the bf16 weights that it is a guess of."""
        return 2 * self.rows * self.width

    def part(self, start: int, count: int) -> Guess:
        """Of `count` rows from its own row `start` on."""
        if not 0 <= start <= start + count <= self.rows:
            raise ValueError(f"rows {start} to {start + count} are not among {self.rows}")
        return replace(self, first=self.first + start, rows=count)

    def on_host(self) -> Guess:
        """The same in host memory; from a device its own rows alone are brought."""
        if self.packed.device.type == "cpu":
            return self
        own = slice(self.first, self.first + self.rows)
        if self.layout == LANES:
            return replace(self, packed=self.packed.cpu(), scale=self.scale.cpu(), offset=self.offset.cpu())
        scale, offset = (values[:, own].cpu().contiguous() for values in (self.scale, self.offset))
        return replace(self, packed=self.packed[own].cpu(), scale=scale, offset=offset, first=0)


def digest(guesses: Mapping[str, Guess]) -> bytes:
    """32 bytes that name what `guesses` say of a layer's weights, by tensor name; each buffer is read once.

    CRC-32 (2.7 GB/s) tells substitutes apart as well as SHA-256 (0.7).
    """
    sums: dict[int, int] = {}
    said = []
    for name, guess in sorted(guesses.items()):
        buffers = (guess.packed, guess.scale, guess.offset)
        for buffer in buffers:
            if buffer.data_ptr() not in sums:
                sums[buffer.data_ptr()] = zlib.crc32(buffer.cpu().flatten().view(torch.uint8).numpy().data)
        found = [sums[buffer.data_ptr()] for buffer in buffers]
        said.append((name, found, guess.layout, guess.first, guess.rows, guess.width, guess.group))
    return hashlib.sha256(repr(said).encode()).digest()
