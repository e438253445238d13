"""Streaming into a CUDA device: slots in device memory, filled from host memory or from disk.

A layer in page-locked host memory is one asynchronous copy (two where it lies in two files), compressed ones are some;
one that is kept compressed on the device is not copied at all. Its kernels wait for a slot's bytes on the device, so
that nobody waits on the host (delivery.py). Written without a CUDA device at hand and not yet run on one; the order of
things is tested with a simulated device.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from queue import SimpleQueue

import torch
from torch import Tensor

from specdecodes.errors import CheckpointError
from specdecodes.offload.compression.compressed import CompressedLayer, damaged
from specdecodes.offload.compression.parts import Guesses
from specdecodes.offload.storage.layout import Block
from specdecodes.offload.storage.locked import HostMemory
from specdecodes.offload.storage.store import TensorSpan
from specdecodes.offload.streaming.counters import StreamCounters
from specdecodes.offload.streaming.delivery import Delivery, Marks
from specdecodes.offload.streaming.pinned import PinnedLayer
from specdecodes.offload.streaming.ring import Ring
from specdecodes.offload.streaming.slot_stream import BLOCK_BYTES, SlotStream
from specdecodes.offload.streaming.slots import Holder, Slot
from specdecodes.offload.streaming.stopwatch import Stopwatch, mark
from specdecodes.units import format_bytes

_READERS = 2  # the disk has work while one of them waits for a copy


class CudaLayerStream(SlotStream):
    """A `SlotStream` whose tensors are on `device`. Layers in `pinned` are read from disk once, into host memory;
    those in `kept`, compressed, into the device's."""

    def __init__(
        self,
        layers: Sequence[Mapping[str, TensorSpan]],
        *,
        device: torch.device,
        pinned: Collection[int] = (),
        slots: int = 2,
        block_bytes: int = BLOCK_BYTES,
        dtype: torch.dtype | None = None,
        compressed: Mapping[int, CompressedLayer] | None = None,
        kept: Collection[int] = (),
        guesses: Mapping[int, Guesses] | None = None,
        compress: bool = False,
        ahead: bool = True,
    ) -> None:
        """`pinned` counts streamed layers, in the order of a pass; with `compress` they are kept compressed, beside
        their `guesses`, whose buffers are on the device. Raises CheckpointError, and StreamError."""
        self._device, self._guesses, self._compress = device, guesses or {}, compress
        super().__init__(
            layers,
            slots=slots,
            readers=_READERS,
            block_bytes=block_bytes,
            dtype=dtype,
            compressed=compressed,
            kept=kept,
            guesses=guesses,
            ahead=ahead,
        )
        if any(layout.moves for layout in self._ring.layouts):
            super().close()
            raise CheckpointError("tensors at odd offsets cannot be streamed to a GPU; save the checkpoint again.")
        self._copying, self._stalling = Stopwatch(), Stopwatch()
        self._pinned: dict[int, PinnedLayer] = {}
        self._stagings: list[HostMemory] = []
        self._free: SimpleQueue[HostMemory] = SimpleQueue()
        with contextlib.ExitStack() as undo:
            undo.callback(self.close)  # locked memory must not be given back as it is
            for layer in sorted(set(pinned) - set(kept)):
                self._pin(layer, layers[layer])
            if self._locked + len(self._supply.kept) == len(layers):
                self._readers = 1  # it has nothing to wait for, and copies keep their order
            else:
                for _ in range(_READERS):
                    self._stagings.append(HostMemory(max(block_bytes, self._longest_compressed), device))
                    self._free.put(self._stagings[-1])
            self._delivery = Delivery(device, self._longest_compressed)
            undo.pop_all()

    @property
    def note(self) -> str:
        """One line for a person where host memory could not be page-locked, else nothing."""
        refused, count = self.unlocked_bytes, len(self._pinned) - self._locked
        if not refused:
            return ""
        kept = f"{count} of {len(self._pinned)} layers kept there" if count else "what comes from disk"
        return (
            f"the system refused to page-lock host memory: {kept} ({format_bytes(refused)} a pass) is copied twice, "
            "and arrives slower than the link allows; raise `ulimit -l`, or lower --host-memory."
        )

    @property
    def unlocked_bytes(self) -> int:
        """Of what a pass streams: what comes from host memory that the system did not page-lock."""
        pinned = sum(layer.memory.bytes.nbytes for layer in self._pinned.values() if not layer.memory.locked)
        if all(memory.locked for memory in self._stagings):
            return pinned
        here = {*self._pinned, *self._supply.kept}
        loose = (blocks for layer, blocks in enumerate(self._blocks) if layer not in here)
        return pinned + sum(block.needed for blocks in loose for block in blocks)

    @property
    def _locked(self) -> int:
        return sum(layer.memory.locked for layer in self._pinned.values())

    @property
    def _longest_compressed(self) -> int:
        return max((block.length for block in self._supply.read if block.packing), default=0)

    @property
    def nbytes(self) -> int:
        """Memory of the ring, conversion, and compressed bytes on the device."""
        return super().nbytes + self._delivery.nbytes

    @property
    def counters(self) -> StreamCounters:
        """Seconds of copies and of kernels that stood still for them are the device's own, added when they are over."""
        device = StreamCounters(read_seconds=self._copying.seconds(), wait_seconds=self._stalling.seconds())
        return super().counters + device

    def close(self) -> None:
        super().close()
        if os.getpid() != self._process:
            return
        torch.cuda.synchronize(self._device)
        for memory in (*(layer.memory for layer in self._pinned.values()), *self._stagings):
            memory.release()
        self._pinned, self._stagings = {}, []

    def _make_ring(
        self,
        layers: Sequence[Mapping[str, TensorSpan]],
        slots: int,
        dtype: torch.dtype | None,
        packed: Mapping[int, int],
    ) -> Ring:
        return Ring(layers, slots, dtype, self._device)  # the device restores in the slots

    def _reads(self) -> tuple[Sequence[int], Sequence[Sequence[Block]]]:
        return range(len(self._blocks)), self._blocks

    def _pin(self, place: int, spans: Mapping[str, TensorSpan]) -> None:
        # What was refused once would be refused again, after some seconds of trying.
        lock = all(layer.memory.locked for layer in self._pinned.values())
        layer = PinnedLayer(
            self._blocks[place],
            spans,
            self._files,
            self._device,
            compress=self._compress,
            guesses=self._guesses.get(place),
            lock=lock,
        )
        self._pinned[place], self._blocks[place] = layer, layer.blocks

    def _fill(self, slot: Slot, block: Block) -> int:
        """Bytes that lie on the device or in page-locked memory are on their way when this returns; others are there,
        or being expanded."""
        place = self._place(slot)
        start = self._ring.offset(slot.index, place, block.slot_offset)
        target = self._ring.bytes[start : start + (block.expands_to or block.needed)]
        kept, pinned = self._supply.kept.get(place), self._pinned.get(place)
        if kept is not None:
            packing, content, cuts = kept.held(block)
            self._delivery.restore(slot.index, target, content, packing, cuts)
            return 0
        if pinned is not None and pinned.memory.locked:
            self._copying.add(*self._send(slot, block, target, pinned.bytes_of(block), pinned.cuts_of(block)))
            return block.needed
        staging = self._free.get()
        try:
            source = staging.bytes[: block.needed]
            if pinned is not None:
                source.copy_(pinned.bytes_of(block))
                cuts = pinned.cuts_of(block)
            else:
                cuts = self._read_into(staging, block)
            _, end = self._send(slot, block, target, source, cuts)
            end.synchronize()  # before the staging block is read into again
        finally:
            self._free.put(staging)
        return block.needed

    def _read_into(self, staging: HostMemory, block: Block) -> tuple[int, ...]:
        """Reads the block; returns where its pieces begin. Raises StreamError."""
        self._files.read(replace(block, slot_offset=0), staging.memory)
        if block.packing is None:
            return ()
        if not block.packing.sound(staging.bytes[: block.needed], block.expands_to):
            raise damaged(block)
        return block.packing.cuts(staging.bytes[: block.needed])

    def _send(self, slot: Slot, block: Block, target: Tensor, source: Tensor, cuts: tuple[int, ...]) -> Marks:
        if block.packing is None:
            return self._delivery.send(slot.index, target, source)
        return self._delivery.send_packed(slot.index, target, source, block.packing, cuts)

    def _bring(self, index: int, holder: Holder) -> int:
        """The device's kernels wait for the bytes from here on."""
        slot = super()._bring(index, holder)
        arrived = self._delivery.arrived(slot)
        if arrived is not None:
            current = torch.cuda.current_stream(self._device)
            begin = mark(current)
            current.wait_event(arrived)
            self._stalling.add(begin, mark(current))
        return slot

    def _end_use(self, slot: Slot) -> None:
        used = torch.cuda.Event()
        used.record(torch.cuda.current_stream(self._device))
        self._delivery.used(slot.index, used)
