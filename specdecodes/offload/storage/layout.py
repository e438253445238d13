"""Where a layer's bytes land in a slot: few long reads, every offset a multiple of the alignment.

A tensor keeps its distance to the last aligned offset of its file, so no byte is moved after it arrived, unless the
file placed it where its dtype cannot be read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from torch import Tensor

from specdecodes.offload.storage.store import ALIGNMENT, TensorSpan


class Packing(Protocol):
    """How the bytes of a block are packed, and what restores them."""

    def compress(self, raw: Tensor) -> Tensor:
        """The block of the bytes `raw` [n], in host memory."""

    def sound(self, block: Tensor, nbytes: int) -> bool:
        """Whether `block`, in host memory, is an undamaged one of `nbytes` bytes."""

    def expand(self, block: Tensor, out: Tensor, threads: int = 1) -> bool:
        """Restores the bytes `out` [n] in host memory; False when the block is damaged, or not one of n bytes. So many
        threads share that; others run meanwhile."""

    def cuts(self, block: Tensor) -> tuple[int, ...]:
        """Where the pieces of a sound block in host memory begin, which a device is to be told."""

    def expand_on(self, landing: Tensor, out: Tensor, cuts: tuple[int, ...]) -> None:
        """Enqueues what restores the bytes `out` [n] from a sound block at `landing`, both on one device."""


@dataclass(frozen=True)
class Block:
    """One read: `length` bytes (aligned) of `path` from `start` into the slot at `slot_offset`.

    Only the first `needed` bytes must arrive; the rest may lie behind the end of the file. Bytes that are compressed
    fill `expands_to` bytes of the slot, as `packing` restores them; 0: they are stored as they are.
    """

    path: Path
    start: int
    length: int
    needed: int
    slot_offset: int
    expands_to: int = 0
    packing: Packing | None = field(default=None, compare=False)


@dataclass(frozen=True)
class Move:
    """Bytes of a slot to copy to an offset that suits their dtype."""

    source: int
    target: int
    nbytes: int


@dataclass(frozen=True)
class LayerLayout:
    """A layer in its slot: the long reads, the offset of each tensor, the moves, and the bytes of slot it takes."""

    ranges: tuple[Block, ...]
    offsets: Mapping[str, int]
    moves: tuple[Move, ...]
    nbytes: int

    def blocks(self, block_bytes: int) -> Iterator[Block]:
        """The ranges cut into reads of at most `block_bytes`, a multiple of the alignment."""
        for whole in self.ranges:
            for begin in range(0, whole.length, block_bytes):
                length = min(block_bytes, whole.length - begin)
                needed = min(length, whole.needed - begin)
                yield Block(whole.path, whole.start + begin, length, needed, whole.slot_offset + begin)


def lay_out(spans: Mapping[str, TensorSpan]) -> LayerLayout:
    """Plans the reads of one layer. Tensors whose aligned windows touch share a read."""
    ranges: list[Block] = []
    offsets: dict[str, int] = {}
    end = 0
    for name, span in sorted(spans.items(), key=lambda item: (str(item[1].path), item[1].offset)):
        start, stop = _down(span.offset), _up(span.offset + span.nbytes)
        last = ranges[-1] if ranges else None
        if last is None or last.path != span.path or start > last.start + last.length:
            last = Block(span.path, start, 0, 0, end)
            ranges.append(last)
        length = max(last.length, stop - last.start)
        needed = max(last.needed, span.offset + span.nbytes - last.start)
        ranges[-1] = Block(last.path, last.start, length, needed, last.slot_offset)
        offsets[name] = last.slot_offset + span.offset - last.start
        end = last.slot_offset + length
    moves: list[Move] = []
    for name, span in spans.items():
        if offsets[name] % span.dtype.itemsize:
            moves.append(Move(offsets[name], end, span.nbytes))
            offsets[name], end = end, _up(end + span.nbytes)
    return LayerLayout(tuple(block for block in ranges if block.length), offsets, tuple(moves), end)


def _down(offset: int) -> int:
    return offset // ALIGNMENT * ALIGNMENT


def _up(offset: int) -> int:
    return -(-offset // ALIGNMENT) * ALIGNMENT
