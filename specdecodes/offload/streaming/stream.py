"""Streaming into host memory, from disk: slots are read into in place.

Compressed layers come as they are stored, and are restored when they are asked for: one at a time, in one place behind
the slots, by all cores at once. Cores that expanded beside those that compute would make a pass wait at every point
where its threads meet, and slots would have to hold whole layers.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any
from weakref import ReferenceType, ref

import torch
from torch import Tensor

from specdecodes.errors import StreamError
from specdecodes.offload.compression.compressed import damaged
from specdecodes.offload.storage.layout import Block
from specdecodes.offload.storage.store import TensorSpan
from specdecodes.offload.streaming.counters import StreamCounters
from specdecodes.offload.streaming.ring import Ring
from specdecodes.offload.streaming.slot_stream import BLOCK_BYTES, SlotStream
from specdecodes.offload.streaming.slots import Holder, Slot

__all__ = ["BLOCK_BYTES", "LayerStream"]


class LayerStream(SlotStream):
    """A `SlotStream` whose ring is in host memory; layers that are kept pass its slots by."""

    _device = torch.device("cpu")

    def __init__(self, layers: Sequence[Mapping[str, TensorSpan]], **options: Any) -> None:
        """As `SlotStream` does."""
        self._sharing: ReferenceType[Holder] | None = None  # of the place where layers are restored
        super().__init__(layers, **options)

    def _make_ring(
        self,
        layers: Sequence[Mapping[str, TensorSpan]],
        slots: int,
        dtype: torch.dtype | None,
        packed: Mapping[int, int],
    ) -> Ring:
        return Ring(layers, slots, dtype, packed=packed)

    def _reads(self) -> tuple[Sequence[int], Sequence[Sequence[Block]]]:
        places = [place for place in range(len(self._blocks)) if place not in self._supply.kept]
        every = (self._blocks[place] for place in places)
        return places, [_as_stored(blocks) if _packed(blocks) else blocks for blocks in every]

    def _fill(self, slot: Slot, block: Block) -> int:
        return self._files.read(block, self._ring.memory[slot.index])

    def _bring(self, index: int, holder: Holder) -> int:
        slot = self._pass_by() if index in self._supply.kept else super()._bring(index, holder)
        if _packed(self._blocks[index]):
            self._restore(index, slot, holder)
        return slot

    def _end_use(self, slot: Slot) -> None:
        """Nobody reads a slot's memory any more."""

    def _pass_by(self) -> int:
        """The number of no slot, for a layer that needs none."""
        with self._lock:
            self._check_free()
            self._totals += StreamCounters(layers=1)
            return len(self._slots)

    def _restore(self, index: int, slot: int, holder: Holder) -> None:
        """Restores layer `index`, and lets readers have its slot. The seconds count as those of waiting."""
        start, self._sharing = time.perf_counter(), ref(holder)
        threads = torch.get_num_threads()
        for block, content in self._contents(index, slot):
            assert block.packing is not None, "of a layer that is compressed"
            if not block.packing.expand(content, self._ring.target(index, block), threads):
                self._drop()
                raise _changed(block) if index in self._supply.kept else damaged(block)
        super()._release(holder)
        with self._lock:
            self._totals += StreamCounters(wait_seconds=time.perf_counter() - start)

    def _contents(self, index: int, slot: int) -> Iterator[tuple[Block, Tensor]]:
        """The blocks of a layer, and their bytes where they lie."""
        blocks, kept = self._blocks[index], self._supply.kept.get(index)
        if kept is not None:
            yield from ((block, kept.held(block)[1]) for block in blocks)
            return
        for block, read in zip(blocks, _as_stored(blocks), strict=True):
            yield block, self._ring.slot(slot)[read.slot_offset :][: block.needed]

    def _drop(self) -> None:
        """Lets the next call open the files anew, and read again."""
        with self._lock:
            self._slots.forget()
            self._slots.halt()
        self._bell.wait(lambda: not self._filling)
        self._files.close()

    def _check_free(self) -> None:
        super()._check_free()
        if self._sharing is not None and self._sharing() is not None:
            raise RuntimeError("end the `with` block of an earlier layer first: its memory is needed")

    def _release(self, holder: Holder) -> None:
        if self._sharing is not None and self._sharing() is holder:
            self._sharing = None
        super()._release(holder)


def _packed(blocks: Sequence[Block]) -> bool:
    return blocks[0].packing is not None


def _as_stored(blocks: Sequence[Block]) -> tuple[Block, ...]:
    """The reads that bring compressed blocks into a slot, one behind the other, and leave them compressed."""
    at, reads = 0, []
    for block in blocks:
        reads.append(replace(block, slot_offset=at, expands_to=0, packing=None))
        at += block.length
    return tuple(reads)


def _changed(block: Block) -> StreamError:
    return StreamError(f"what is kept in memory of {block.path} has changed there; load the model again.")
