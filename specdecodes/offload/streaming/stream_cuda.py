"""Streaming into a CUDA device: the same stream, its slots in device memory, filled from host memory or from disk.

A layer in page-locked host memory is one asynchronous copy (two where it lies in two files). All copies go through one
CUDA stream, in the order of the pass: two at once would both arrive late. A slot is not overwritten before the kernels
that read it have ended, and its kernels wait for its bytes on the device, so that nobody waits on the host. Compressed
bytes are copied to landings beside the ring, from where kernels on a second stream restore them into the slot. Written
without a CUDA device at hand and not yet run on one; the order of things is tested with a simulated device.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from queue import SimpleQueue
from threading import Lock

import torch
from torch import Tensor

from specdecodes.errors import CheckpointError
from specdecodes.offload.compression.alone import codec
from specdecodes.offload.compression.compressed import CompressedLayer
from specdecodes.offload.compression.expander import Expander, damaged
from specdecodes.offload.storage.layout import Block
from specdecodes.offload.storage.locked import HostMemory
from specdecodes.offload.storage.store import TensorSpan
from specdecodes.offload.streaming.counters import StreamCounters
from specdecodes.offload.streaming.kept import KeptLayer
from specdecodes.offload.streaming.landings import Landings, stream_beside
from specdecodes.offload.streaming.ring import Ring
from specdecodes.offload.streaming.slots import Slot
from specdecodes.offload.streaming.stopwatch import Stopwatch, mark
from specdecodes.offload.streaming.stream import BLOCK_BYTES, LayerStream
from specdecodes.units import format_bytes


class CudaLayerStream(LayerStream):
    """A `LayerStream` whose tensors are on `device`. Layers in `pinned` are read from disk once, into host memory."""

    def __init__(
        self,
        layers: Sequence[Mapping[str, TensorSpan]],
        *,
        device: torch.device,
        pinned: Collection[int] = (),
        slots: int = 2,
        readers: int = 2,
        block_bytes: int = BLOCK_BYTES,
        dtype: torch.dtype | None = None,
        compressed: Mapping[int, CompressedLayer] | None = None,
        compress: torch.dtype | None = None,
        ahead: bool = True,
    ) -> None:
        """`pinned` counts streamed layers, in the order of a pass; given `compress`, the dtype of their 16-bit weights,
        they are kept compressed. Raises CheckpointError, and StreamError."""
        self._device, self._weights = device, compress
        super().__init__(
            layers,
            slots=slots,
            readers=readers,
            block_bytes=block_bytes,
            dtype=dtype,
            compressed=compressed,
            ahead=ahead,
        )
        if any(layout.moves for layout in self._ring.layouts):
            super().close()
            raise CheckpointError("tensors at odd offsets cannot be streamed to a GPU; save the checkpoint again.")
        self._copies = stream_beside(device)
        # Kernels of what had the ring's memory before may still be under way.
        self._copies.wait_event(mark(torch.cuda.current_stream(device)))
        self._enqueue = Lock()
        self._used: dict[int, torch.cuda.Event] = {}  # by slot: the end of the work that reads it
        self._arrived: dict[int, torch.cuda.Event] = {}  # by slot: the end of a copy that nobody has waited for
        self._copying, self._stalling = Stopwatch(), Stopwatch()
        self._host: dict[int, KeptLayer] = {}
        self._stagings: list[HostMemory] = []
        self._landings: Landings | None = None
        self._free: SimpleQueue[HostMemory] = SimpleQueue()
        with contextlib.ExitStack() as undo:
            undo.callback(self.close)  # locked memory must not be given back as it is
            for layer in sorted(pinned):
                self._keep(layer)
            if self._locked == len(layers):
                self._readers = 1  # it has nothing to wait for, and copies keep their order
            else:
                for _ in range(readers):
                    self._stagings.append(HostMemory(max(block_bytes, self._longest_compressed), device))
                    self._free.put(self._stagings[-1])
            self._landings = Landings(self._longest_compressed, device) if self._longest_compressed else None
            undo.pop_all()

    @property
    def note(self) -> str:
        """One line for a person where host memory could not be page-locked, else nothing."""
        refused, count = self.unlocked_bytes, len(self._host) - self._locked
        if not refused:
            return ""
        kept = f"{count} of {len(self._host)} layers kept there" if count else "what comes from disk"
        return (
            f"the system refused to page-lock host memory: {kept} ({format_bytes(refused)} a pass) is copied twice, "
            "and arrives slower than the link allows; raise `ulimit -l`, or lower --host-memory."
        )

    @property
    def unlocked_bytes(self) -> int:
        """Of what a pass streams: what comes from host memory that the system did not page-lock."""
        kept = sum(kept.memory.bytes.nbytes for kept in self._host.values() if not kept.memory.locked)
        if all(memory.locked for memory in self._stagings):
            return kept
        loose = (blocks for layer, blocks in enumerate(self._blocks) if layer not in self._host)
        return kept + sum(block.needed for blocks in loose for block in blocks)

    @property
    def _locked(self) -> int:
        return sum(kept.memory.locked for kept in self._host.values())

    @property
    def _longest_compressed(self) -> int:
        return max((block.length for blocks in self._blocks for block in blocks if block.expands_to), default=0)

    @property
    def nbytes(self) -> int:
        """Memory of the ring, conversion and compressed bytes included."""
        return super().nbytes + (self._landings.nbytes if self._landings else 0)

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
        for memory in (*(kept.memory for kept in self._host.values()), *self._stagings):
            memory.release()
        self._host, self._stagings = {}, []

    def _make_ring(self, layers: Sequence[Mapping[str, TensorSpan]], slots: int, dtype: torch.dtype | None) -> Ring:
        return Ring(layers, slots, dtype, self._device)

    def _make_expander(self, readers: int) -> Expander:
        return Expander((), 0)  # the device expands

    def _keep(self, layer: int) -> None:
        # What was refused once would be refused again, after some seconds of trying.
        lock = all(kept.memory.locked for kept in self._host.values())
        layout, blocks = self._ring.layouts[layer], self._blocks[layer]
        kept = KeptLayer(blocks, layout, self._files, self._device, compress=self._weights, lock=lock)
        self._host[layer], self._blocks[layer] = kept, kept.blocks

    def _fill(self, slot: Slot, block: Block) -> int:
        """Bytes from page-locked memory are on their way when this returns; others are there, or being expanded."""
        layer = slot.turn % len(self._blocks)
        start = self._ring.offset(slot.index, layer, block.slot_offset)
        target = self._ring.bytes[start : start + (block.expands_to or block.needed)]
        kept = self._host.get(layer)
        if kept is not None and kept.memory.locked:
            self._copying.add(*self._send(slot, block, target, kept.bytes_of(block)))
            return block.needed
        staging = self._free.get()
        try:
            if kept is not None:
                staging.bytes[: block.needed].copy_(kept.bytes_of(block))
            else:
                self._files.read(replace(block, slot_offset=0), staging.memory)
                if block.expands_to and not codec.sound(staging.bytes[: block.needed], block.expands_to):
                    raise damaged(block)
            _, end = self._send(slot, block, target, staging.bytes[: block.needed])
            end.synchronize()  # before the staging block is read into again
        finally:
            self._free.put(staging)
        return block.needed

    def _send(
        self, slot: Slot, block: Block, target: Tensor, source: Tensor
    ) -> tuple[torch.cuda.Event, torch.cuda.Event]:
        """Enqueues a copy behind the kernels that read what is in `slot`; returns marks of its begin and end."""
        with self._enqueue:
            last = [event.get(slot.index) for event in (self._used, self._arrived)]
            if block.expands_to:
                return self._send_compressed(slot, target, source, last)
            for event in last:
                if event is not None:
                    self._copies.wait_event(event)
            begin = mark(self._copies)
            self._copy(target, source)
            end = self._arrived[slot.index] = mark(self._copies)
            return begin, end

    def _send_compressed(
        self, slot: Slot, target: Tensor, source: Tensor, last: Sequence[torch.cuda.Event | None]
    ) -> tuple[torch.cuda.Event, torch.cuda.Event]:
        """The copy waits for a landing; what restores it, for the copy and for what was last done with the slot."""
        assert self._landings is not None, "made for every stream that has compressed blocks"
        landing = self._landings.take(len(source), self._copies)
        begin = mark(self._copies)
        self._copy(landing, source)
        end = mark(self._copies)
        for event in (*last, end):
            if event is not None:
                self._landings.stream.wait_event(event)
        self._expand(landing, target)
        self._arrived[slot.index] = mark(self._landings.stream)
        self._landings.give_back(self._arrived[slot.index])
        return begin, end

    def _expand(self, landing: Tensor, target: Tensor) -> None:
        from specdecodes.offload.compression.alone import codec_kernel

        assert self._landings is not None and self._weights is not None, "given with what is compressed"
        with torch.cuda.stream(self._landings.stream):
            codec_kernel.expand(landing, target, self._weights)

    def _copy(self, target: Tensor, source: Tensor) -> None:
        with torch.cuda.stream(self._copies):
            target.copy_(source, non_blocking=True)

    def _begin_use(self, slot: int) -> None:
        arrived = self._arrived.pop(slot, None)
        if arrived is not None:
            current = torch.cuda.current_stream(self._device)
            begin = mark(current)
            current.wait_event(arrived)
            self._stalling.add(begin, mark(current))

    def _end_use(self, slot: Slot) -> None:
        used = torch.cuda.Event()
        used.record(torch.cuda.current_stream(self._device))
        self._used[slot.index] = used
