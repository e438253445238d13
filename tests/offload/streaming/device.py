"""A CUDA device made of threads: streams that run in order, each operation after a random delay, and events."""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Callable
from queue import SimpleQueue
from threading import Event, Thread
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from specdecodes.offload.storage.layout import Packing


class SimulatedStream:
    """Runs what is enqueued, in order, in its own thread, each after up to `delay` seconds; `run` returns at once.

    One that does not wait for events is never late either, so that it runs ahead.
    """

    def __init__(self, delay: float, waits: bool = True) -> None:
        self._work: SimpleQueue[Callable[[], object] | None] = SimpleQueue()
        self._random, self._delay, self._waits = random.Random(7), delay * waits, waits
        self._thread = Thread(target=self._run, daemon=True)
        self._thread.start()
        self.waited = 0

    def run(self, operation: Callable[[], object]) -> None:
        self._work.put(operation)

    def wait_event(self, event: SimulatedEvent) -> None:
        self.waited += 1
        if self._waits:
            self.run(event.passed.wait)

    def synchronize(self) -> None:
        done = Event()
        self.run(done.set)
        done.wait()

    def end(self) -> None:
        self._work.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (operation := self._work.get()) is not None:
            time.sleep(self._random.uniform(0.1, 1) * self._delay)
            operation()


class SimulatedEvent:
    """An event of one stream; its time is when the stream came to it."""

    def __init__(self, enable_timing: bool = False) -> None:
        self.passed, self._at = Event(), 0.0

    def record(self, stream: SimulatedStream) -> None:
        stream.run(self._pass)

    def synchronize(self) -> None:
        self.passed.wait()

    def query(self) -> bool:
        return self.passed.is_set()

    def elapsed_time(self, end: SimulatedEvent) -> float:
        return 1000 * (end._at - self._at)

    def _pass(self) -> None:
        self._at = time.perf_counter()
        self.passed.set()


class SimulatedCuda:
    """Replaces torch.cuda's calls. `lockable` is what the system page-locks at most; `careless` names the stream, copy
    or compute, that ignores what it should wait for."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, *, lockable: float = float("inf"), delay: float = 0.0, careless: str = ""
    ) -> None:
        self.registered: dict[int, int] = {}
        self._lockable, self._delay, self._careless = lockable, delay, careless
        self.compute = SimulatedStream(delay, careless != "compute")
        self.copies: list[SimulatedStream] = []
        self.priorities: list[int] = []
        cudart = SimpleNamespace(
            cudaHostRegister=lambda pointer, nbytes, flags: self._register(pointer, nbytes),
            cudaHostUnregister=lambda pointer: self.registered.pop(pointer),
        )
        monkeypatch.setattr(torch.cuda, "cudart", lambda: cudart)
        monkeypatch.setattr(torch.cuda, "Stream", lambda device, priority=0: self._stream(priority))
        monkeypatch.setattr(torch.cuda, "stream", lambda stream: contextlib.nullcontext())
        monkeypatch.setattr(torch.cuda, "current_stream", lambda device: self.compute)
        monkeypatch.setattr(torch.cuda, "Event", SimulatedEvent)
        monkeypatch.setattr(torch.cuda, "synchronize", lambda device: self.synchronize())
        monkeypatch.setattr(
            "specdecodes.offload.streaming.delivery.Delivery._copy",
            lambda delivery, target, source: delivery._copies.run(lambda: target.copy_(source)),
        )
        monkeypatch.setattr(
            "specdecodes.offload.streaming.delivery.Delivery._expand",
            lambda delivery, packing, landing, target, cuts: delivery._landings.stream.run(
                lambda: self._expand(packing, landing, target, cuts)
            ),
        )

    def _expand(self, packing: Packing, landing: Tensor, target: Tensor, cuts: tuple[int, ...]) -> None:
        """As a kernel does: what it is given must be whole by now, and the cuts those of what has arrived."""
        if cuts == packing.cuts(landing):
            packing.expand(landing, target)

    def synchronize(self) -> None:
        for stream in (*self.copies, self.compute):
            stream.synchronize()

    def end(self) -> None:
        for stream in (*self.copies, self.compute):
            stream.end()

    def _stream(self, priority: int) -> SimulatedStream:
        self.priorities.append(priority)
        self.copies.append(SimulatedStream(self._delay, self._careless != "copy"))
        return self.copies[-1]

    def _register(self, pointer: int, nbytes: int) -> int:
        if sum(self.registered.values()) + nbytes > self._lockable:
            return 2
        self.registered[pointer] = nbytes
        return 0
