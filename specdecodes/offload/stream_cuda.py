"""Streaming into a CUDA device: the same stream, its slots in device memory, filled from pinned memory or from disk.

Written without a CUDA device at hand and not yet run on one. Readers copy on streams of their own; a slot is not
overwritten before the kernels that read it have ended, and not handed out before its bytes have arrived.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

import torch

from specdecodes.errors import CheckpointError, StreamError
from specdecodes.offload.layout import Block
from specdecodes.offload.ring import Ring
from specdecodes.offload.slots import Slot
from specdecodes.offload.store import TensorSpan, aligned_memory
from specdecodes.offload.stream import BLOCK_BYTES, LayerStream
from specdecodes.units import format_bytes


class PinnedMemory:
    """Page-locked host memory of an exact size: `memory` to read files into, `bytes` to copy from without a detour."""

    def __init__(self, nbytes: int) -> None:
        """Raises StreamError when the system does not lock that much."""
        area = aligned_memory(nbytes)
        self.memory = memoryview(area)
        self.bytes = torch.frombuffer(area, dtype=torch.uint8)
        # torch's own pinned allocator rounds up to powers of two, which would break the host budget.
        if int(torch.cuda.cudart().cudaHostRegister(self.bytes.data_ptr(), nbytes, 0)) != 0:
            raise StreamError(
                f"{format_bytes(nbytes)} of host memory could not be pinned; lower --host-memory or raise `ulimit -l`."
            )

    def release(self) -> None:
        torch.cuda.cudart().cudaHostUnregister(self.bytes.data_ptr())


class _Lane(threading.local):
    """A reader thread's CUDA stream and pinned block."""

    stream: torch.cuda.Stream | None = None
    staging: PinnedMemory | None = None


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
            raise CheckpointError("tensors at odd offsets cannot be streamed to a GPU; save the checkpoint again.")
        self._block_bytes = block_bytes
        self._lane = _Lane()
        self._stagings: list[PinnedMemory] = []
        self._used: dict[int, torch.cuda.Event] = {}  # by slot: the end of the work that reads it
        self._host = {layer: self._pin(layer) for layer in sorted(pinned)}

    def close(self) -> None:
        super().close()
        torch.cuda.synchronize(self._device)
        for memory in (*self._host.values(), *self._stagings):
            memory.release()
        self._host, self._stagings = {}, []

    def _make_ring(self, layers: Sequence[Mapping[str, TensorSpan]], slots: int, dtype: torch.dtype | None) -> Ring:
        return Ring(layers, slots, dtype, self._device)

    def _fill(self, slot: Slot, block: Block) -> int:
        layer = slot.turn % len(self._blocks)
        stream, staging = self._own_lane()
        if layer in self._host:
            source = self._host[layer].bytes[block.slot_offset : block.slot_offset + block.needed]
        else:
            count = self._files.read(replace(block, slot_offset=0), staging.memory)
            source = staging.bytes[: min(count, block.needed)]
        start = slot.index * self._ring.slot_bytes + self._ring.shifts[layer] + block.slot_offset
        used = self._used.get(slot.index)
        with torch.cuda.stream(stream):
            if used is not None:
                stream.wait_event(used)
            self._ring.bytes[start : start + source.shape[0]].copy_(source, non_blocking=True)
        stream.synchronize()  # the staging block is read into again, and the caller's stream needs no event
        return source.shape[0]

    def _end_use(self, slot: Slot) -> None:
        used = torch.cuda.Event()
        used.record(torch.cuda.current_stream(self._device))
        self._used[slot.index] = used

    def _own_lane(self) -> tuple[torch.cuda.Stream, PinnedMemory]:
        if self._lane.stream is None or self._lane.staging is None:
            torch.cuda.set_device(self._device)
            self._lane.stream = torch.cuda.Stream(self._device)
            self._lane.staging = PinnedMemory(self._block_bytes)
            self._stagings.append(self._lane.staging)
        return self._lane.stream, self._lane.staging

    def _pin(self, layer: int) -> PinnedMemory:
        host = PinnedMemory(self._ring.layouts[layer].nbytes)
        for block in self._blocks[layer]:
            self._files.read(block, host.memory)
        return host
