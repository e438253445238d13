"""Blocks that are remainders beside a substitute, and what lies between those weights, coded by itself.

The pieces of a block follow one another, each from a multiple of 64 on. Both formats tell their bytes at one place.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from specdecodes.offload.compression.alone.packing import Alone
from specdecodes.offload.compression.beside import remainder
from specdecodes.offload.compression.beside.guess import Guess
from specdecodes.offload.storage.store import huge_pages

_STEP = 64
_BYTES_AT = 12
_ALONE = Alone(torch.bfloat16)


@dataclass(frozen=True)
class Piece:
    """`nbytes` restored bytes, an even number, from byte `out_start` of what its block restores: whole rows of a guess,
    or others."""

    out_start: int
    nbytes: int
    guess: Guess | None = None

    def __post_init__(self) -> None:
        if self.guess is not None and self.guess.nbytes != self.nbytes:
            raise ValueError(f"{self.nbytes} bytes are not the {self.guess.rows} rows of the guess")

    def of(self, out: Tensor) -> Tensor:
        return out[self.out_start : self.out_start + self.nbytes]

    def compress(self, raw: Tensor) -> Tensor:
        own = self.of(raw)
        return _ALONE.compress(own) if self.guess is None else remainder.compress(own, self.guess)

    def sound(self, block: Tensor) -> bool:
        return _ALONE.sound(block, self.nbytes) if self.guess is None else remainder.sound(block, self.nbytes)

    def expand(self, block: Tensor, out: Tensor, threads: int) -> bool:
        own = self.of(out)
        if self.guess is None:
            return _ALONE.expand(block, own, threads)
        return remainder.expand(block, self.guess, own, threads=threads)

    def expand_on(self, landing: Tensor, out: Tensor) -> None:
        if self.guess is None:
            _ALONE.expand_on(landing, self.of(out), ())
        else:
            remainder.expand_on(landing, self.guess, self.of(out))


@dataclass(frozen=True)
class Beside:
    """The `Packing` of a block of bf16 weights whose pieces fill what it restores, in order."""

    pieces: tuple[Piece, ...]

    @property
    def nbytes(self) -> int:
        """Restored bytes."""
        return sum(piece.nbytes for piece in self.pieces)

    def compress(self, raw: Tensor) -> Tensor:
        """The block of the bytes `raw` [n], in host memory."""
        parts = [piece.compress(raw) for piece in self.pieces]
        block, at = huge_pages(sum(_up(part.numel()) for part in parts)), 0
        for part in parts:
            block[at : at + part.numel()] = part
            at += _up(part.numel())
        return block

    def sound(self, block: Tensor, nbytes: int) -> bool:
        """Whether `block`, in host memory, is an undamaged one of `nbytes` bytes."""
        parts = self._parts(block)
        return nbytes == self.nbytes and all(
            part is not None and piece.sound(part) for piece, part in zip(self.pieces, parts, strict=True)
        )

    def expand(self, block: Tensor, out: Tensor, threads: int = 1) -> bool:
        """Restores the bytes `out` [n] in host memory; False when the block is damaged, or not one of n bytes. So many
        threads share that; others run meanwhile."""
        parts = self._parts(block)
        return out.numel() == self.nbytes and all(
            part is not None and piece.expand(part, out, threads)
            for piece, part in zip(self.pieces, parts, strict=True)
        )

    def cuts(self, block: Tensor) -> tuple[int, ...]:
        """Where the pieces of a sound block in host memory begin, and where the last one ends."""
        found, at = [0], 0
        for _ in self.pieces:
            at += _up(_size(block, at))
            found.append(at)
        return tuple(found)

    def expand_on(self, landing: Tensor, out: Tensor, cuts: tuple[int, ...]) -> None:
        """Enqueues what restores the bytes `out` [n] from a sound block at `landing`, both on one device."""
        for piece, start, end in zip(self.pieces, cuts, cuts[1:], strict=False):
            piece.expand_on(landing[start:end], out)

    def _parts(self, block: Tensor) -> list[Tensor | None]:
        """The block of each piece; None where it would reach behind the end."""
        found: list[Tensor | None] = []
        at = 0
        for _ in self.pieces:
            size = _size(block, at)
            found.append(block[at : at + size] if 0 < size <= block.numel() - at else None)
            at += _up(size)
        return found if at == block.numel() else [None] * len(found)


def _size(block: Tensor, at: int) -> int:
    """Bytes of the piece that begins there; 0 where none can."""
    if at + _BYTES_AT + 4 > block.numel():
        return 0
    return int.from_bytes(block[at + _BYTES_AT : at + _BYTES_AT + 4].numpy().tobytes(), "little")


def _up(nbytes: int) -> int:
    return -(-nbytes // _STEP) * _STEP
