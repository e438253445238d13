"""What is enqueued on a device to fill the slots of its ring, and what each piece of that work waits for.

All copies go through one CUDA stream, in the order of the pass: two at once would both arrive late. A slot is not
overwritten before the kernels that read it have ended. Compressed bytes are copied to landings beside the ring, from
where kernels on a second stream restore them into the slot; bytes that are kept on the device are restored by the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from threading import Lock

import torch
from torch import Tensor

from specdecodes.offload.storage.layout import Packing
from specdecodes.offload.streaming.landings import Landings, stream_beside
from specdecodes.offload.streaming.stopwatch import mark

Marks = tuple[torch.cuda.Event, torch.cuda.Event]


class Delivery:
    """Two streams of a device: copies into its ring or to landings, and what expands. Any thread may enqueue."""

    def __init__(self, device: torch.device, landing_bytes: int) -> None:
        """`landing_bytes`: of the longest block that is copied there compressed."""
        self._copies, self._landings = stream_beside(device), Landings(landing_bytes, device)
        # Kernels of what had the ring's memory before may still be under way.
        before = mark(torch.cuda.current_stream(device))
        for stream in (self._copies, self._landings.stream):
            stream.wait_event(before)
        self._enqueue = Lock()
        self._used: dict[int, torch.cuda.Event] = {}  # by slot: the end of the work that reads it
        self._arrived: dict[int, torch.cuda.Event] = {}  # by slot: the end of what filled it last

    @property
    def nbytes(self) -> int:
        """Memory of the landings."""
        return self._landings.nbytes

    def send(self, slot: int, target: Tensor, source: Tensor) -> Marks:
        """Enqueues a copy of bytes of host memory to `target`, in `slot`; marks of its begin and end."""
        with self._enqueue:
            for event in self._last(slot):
                self._copies.wait_event(event)
            begin = mark(self._copies)
            self._copy(target, source)
            end = self._arrived[slot] = mark(self._copies)
            return begin, end

    def send_packed(self, slot: int, target: Tensor, source: Tensor, packing: Packing, cuts: tuple[int, ...]) -> Marks:
        """The same of compressed bytes, and what restores them in `target`: the copy waits for a landing, the rest for
        the copy and for what was last done with the slot."""
        with self._enqueue:
            landing = self._landings.take(len(source), self._copies)
            begin = mark(self._copies)
            self._copy(landing, source)
            end = mark(self._copies)
            self._restore(slot, landing, target, packing, cuts, (end,))
            self._landings.give_back(self._arrived[slot])
            return begin, end

    def restore(self, slot: int, target: Tensor, kept: Tensor, packing: Packing, cuts: tuple[int, ...]) -> None:
        """Enqueues what restores bytes that lie on the device, in `target`, in `slot`."""
        with self._enqueue:
            self._restore(slot, kept, target, packing, cuts, ())

    def arrived(self, slot: int) -> torch.cuda.Event | None:
        """The end of what fills `slot`, for its kernels to wait for."""
        return self._arrived.get(slot)

    def used(self, slot: int, end: torch.cuda.Event) -> None:
        """`slot` may be filled again after `end`."""
        self._used[slot] = end

    def _last(self, slot: int) -> list[torch.cuda.Event]:
        """What must be over before the slot is written to."""
        return [event for event in (self._used.get(slot), self._arrived.get(slot)) if event is not None]

    def _restore(
        self,
        slot: int,
        landing: Tensor,
        target: Tensor,
        packing: Packing,
        cuts: tuple[int, ...],
        behind: Sequence[torch.cuda.Event],
    ) -> None:
        for event in (*self._last(slot), *behind):
            self._landings.stream.wait_event(event)
        self._expand(packing, landing, target, cuts)
        self._arrived[slot] = mark(self._landings.stream)

    def _expand(self, packing: Packing, landing: Tensor, target: Tensor, cuts: tuple[int, ...]) -> None:
        with torch.cuda.stream(self._landings.stream):
            packing.expand_on(landing, target, cuts)

    def _copy(self, target: Tensor, source: Tensor) -> None:
        with torch.cuda.stream(self._copies):
            target.copy_(source, non_blocking=True)
