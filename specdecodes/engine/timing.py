"""Seconds by phase, on the host or across a device's queue."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

import torch

from specdecodes.spans import span


class PhaseClock:
    """Adds up seconds by phase. On a CUDA device each phase waits for what was launched in it, so that its
    work is counted where it was asked for; weights that are on their way go on arriving."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._seconds: dict[str, float] = {}
        self._started = time.perf_counter()

    @contextlib.contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        started = time.perf_counter()
        with span(phase):
            yield
            if self._device.type == "cuda":
                torch.cuda.current_stream(self._device).synchronize()
        self._seconds[phase] = self._seconds.get(phase, 0.0) + time.perf_counter() - started

    def lap(self) -> dict[str, float]:
        """Seconds by phase since the last lap, `total` included; starts the next lap."""
        now = time.perf_counter()
        seconds = {**self._seconds, "total": now - self._started}
        self._seconds, self._started = {}, now
        return seconds
