"""Streaming into a CUDA device: the same stream, its slots in device memory, filled from host memory or from disk.

A layer in page-locked host memory is one asynchronous copy. All copies go through one CUDA stream, in the order of the
pass: two at once would both arrive late. A slot is not overwritten before the kernels that read it have ended, and its
kernels wait for its bytes on the device, so that nobody waits on the host. Written without a CUDA device at hand and
not yet run on one; the order of things is tested with a simulated device.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from queue import SimpleQueue
from threading import Lock

import torch
from torch import Tensor

from specdecodes.errors import CheckpointError
from specdecodes.offload.counters import StreamCounters
from specdecodes.offload.layout import Block
from specdecodes.offload.locked import HostMemory
from specdecodes.offload.ring import Ring
from specdecodes.offload.slots import Slot
from specdecodes.offload.stopwatch import Stopwatch, mark
from specdecodes.offload.store import TensorSpan
from specdecodes.offload.stream import BLOCK_BYTES, LayerStream
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
    ) -> None:
        """`pinned` counts streamed layers, in the order of a pass. Raises CheckpointError, and StreamError."""
        self._device = device
        super().__init__(layers, slots=slots, readers=readers, block_bytes=block_bytes, dtype=dtype)
        if any(layout.moves for layout in self._ring.layouts):
            super().close()
            raise CheckpointError("tensors at odd offsets cannot be streamed to a GPU; save the checkpoint again.")
        self._copies = torch.cuda.Stream(device)
        self._enqueue = Lock()
        self._used: dict[int, torch.cuda.Event] = {}  # by slot: the end of the work that reads it
        self._arrived: dict[int, torch.cuda.Event] = {}  # by slot: the end of a copy that nobody has waited for
        self._copying, self._stalling = Stopwatch(), Stopwatch()
        self._host: dict[int, HostMemory] = {}
        self._stagings: list[HostMemory] = []
        self._free: SimpleQueue[HostMemory] = SimpleQueue()
        with contextlib.ExitStack() as undo:
            undo.callback(self.close)  # locked memory must not be given back as it is
            for layer in sorted(pinned):
                self._keep(layer)
            if self._locked == len(layers):
                self._readers = 1  # it has nothing to wait for, and copies keep their order
            else:
                for _ in range(readers):
                    self._stagings.append(HostMemory(block_bytes, device))
                    self._free.put(self._stagings[-1])
            undo.pop_all()

    @property
    def note(self) -> str:
        """One line for a person where host memory could not be page-locked, else nothing."""
        refused = self.unlocked_bytes
        if not refused and all(memory.locked for memory in self._stagings):
            return ""
        count = len(self._host) - self._locked
        return (
            f"the system refused to page-lock host memory: {count} of {len(self._host)} layers kept there "
            f"({format_bytes(refused)}) are copied twice, and arrive slower than the link allows; "
            "raise `ulimit -l`, or lower --host-memory."
        )

    @property
    def unlocked_bytes(self) -> int:
        """Of the layers kept in host memory: those that the system did not page-lock."""
        return sum(memory.bytes.nbytes for memory in self._host.values() if not memory.locked)

    @property
    def _locked(self) -> int:
        return sum(memory.locked for memory in self._host.values())

    @property
    def counters(self) -> StreamCounters:
        """Seconds of copies and of kernels that stood still for them are the device's own, added when they are over."""
        device = StreamCounters(read_seconds=self._copying.seconds(), wait_seconds=self._stalling.seconds())
        return super().counters + device

    def close(self) -> None:
        super().close()
        torch.cuda.synchronize(self._device)
        for memory in (*self._host.values(), *self._stagings):
            memory.release()
        self._host, self._stagings = {}, []

    def _make_ring(self, layers: Sequence[Mapping[str, TensorSpan]], slots: int, dtype: torch.dtype | None) -> Ring:
        return Ring(layers, slots, dtype, self._device)

    def _keep(self, layer: int) -> None:
        """Reads `layer` into host memory; where that is page-locked, it becomes one block."""
        nbytes = self._ring.layouts[layer].nbytes
        # What was refused once would be refused again, after some seconds of trying.
        memory = HostMemory(nbytes, self._device, lock=all(memory.locked for memory in self._host.values()))
        self._host[layer] = memory
        for block in self._blocks[layer]:
            self._files.read(block, memory.memory)
        if memory.locked:
            self._blocks[layer] = (replace(self._blocks[layer][0], length=nbytes, needed=nbytes, slot_offset=0),)

    def _fill(self, slot: Slot, block: Block) -> int:
        """Bytes from page-locked memory are on their way when this returns; others are there."""
        layer = slot.turn % len(self._blocks)
        start = slot.index * self._ring.slot_bytes + self._ring.shifts[layer] + block.slot_offset
        target = self._ring.bytes[start : start + block.needed]
        host = self._host.get(layer)
        if host is not None and host.locked:
            begin, self._arrived[slot.index] = self._send(slot, target, host.bytes)
            self._copying.add(begin, self._arrived[slot.index])
            return block.needed
        staging = self._free.get()
        try:
            if host is not None:
                staging.bytes[: block.needed].copy_(host.bytes[block.slot_offset :][: block.needed])
            else:
                self._files.read(replace(block, slot_offset=0), staging.memory)
            _, end = self._send(slot, target, staging.bytes[: block.needed])
            end.synchronize()  # before the staging block is read into again
        finally:
            self._free.put(staging)
        return block.needed

    def _send(self, slot: Slot, target: Tensor, source: Tensor) -> tuple[torch.cuda.Event, torch.cuda.Event]:
        """Enqueues a copy behind the kernels that read what is in `slot`; returns marks of its begin and end."""
        with self._enqueue:
            used = self._used.get(slot.index)
            if used is not None:
                self._copies.wait_event(used)
            begin = mark(self._copies)
            self._copy(target, source)
            return begin, mark(self._copies)

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
