"""Steps that are launched many times on the same tensors: recorded once as a CUDA graph, called as they are elsewhere.

Not yet run on a GPU; what is recorded, when, and what a replay computes is tested with a simulated recorder.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import torch


class GraphPool:
    """Memory of graphs that never run at the same time and leave nothing behind in it, so that all have the same.

    `records` says whether steps are recorded: on a CUDA device, if asked for, until that fails for the first time.
    """

    def __init__(self, device: torch.device, *, record: bool = True) -> None:
        self.records = record and can_record(device)
        self._device = device
        self._first: torch.cuda.CUDAGraph | None = None

    def record(self, step: Callable[[], None]) -> torch.cuda.CUDAGraph | None:
        """What `step` launches, which is only noted; None where that cannot be done, which is said."""
        try:
            graph = capture(step, self._device, self._first)
        except RuntimeError as error:
            self.records = False
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            logging.getLogger(__name__).warning(
                "steps could not be recorded as CUDA graphs (%s); they are launched one by one, which takes longer. "
                "--set graphs=false does so from the start.",
                reason,
            )
            return None
        self._first = self._first or graph
        return graph


class Recorded:
    """A step of fixed tensors and shapes without host syncs: the first call runs it, which compiles what there is to
    compile; the second records it; from then on it is replayed. Where nothing is recorded every call runs it."""

    def __init__(self, step: Callable[[], None], pool: GraphPool) -> None:
        self._step, self._pool = step, pool
        self._ran = False
        self._graph: torch.cuda.CUDAGraph | None = None

    def __call__(self) -> None:
        if self._graph is None and self._ran and self._pool.records:
            self._graph = self._pool.record(self._step)
        if self._graph is not None:
            self._graph.replay()
            return
        self._step()
        self._ran = True


def can_record(device: torch.device) -> bool:
    return device.type == "cuda"


def capture(
    step: Callable[[], None], device: torch.device, sharing: torch.cuda.CUDAGraph | None
) -> torch.cuda.CUDAGraph:
    """`step` as a graph, in the memory of the one that it is `sharing` with. Raises RuntimeError."""
    graph = torch.cuda.CUDAGraph()
    pool = None if sharing is None else sharing.pool()
    with (
        torch.cuda.stream(torch.cuda.current_stream(device)),  # comes back even when a capture ends badly
        # Notes what this thread launches. Readers of a weight stream go on in theirs.
        torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"),
    ):
        step()
    return graph


class Readback:
    """Numbers that a device computes one after another, read by the host without stopping the device: `push` asks for
    the next, `pop` waits for the oldest that was asked for."""

    def __init__(self, capacity: int, device: torch.device) -> None:
        """At most `capacity` numbers are on their way at a time."""
        self._device, self._cuda = device, device.type == "cuda"
        self._values = torch.zeros(capacity, pin_memory=self._cuda)
        self._events = [torch.cuda.Event() for _ in range(capacity)] if self._cuda else []
        self._pushed = self._popped = 0

    def __len__(self) -> int:
        return self._pushed - self._popped

    def push(self, value: torch.Tensor) -> None:
        """`value` [] or [1], as it will be when the work queued so far is done."""
        place = self._pushed % self._values.shape[0]
        self._values[place].copy_(value.squeeze(), non_blocking=True)
        if self._cuda:
            self._events[place].record(torch.cuda.current_stream(self._device))
        self._pushed += 1

    def pop(self) -> float:
        place = self._popped % self._values.shape[0]
        if self._cuda:
            self._events[place].synchronize()
        self._popped += 1
        return float(self._values[place])
