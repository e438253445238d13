"""Seconds that work took on a CUDA stream, without waiting for it."""

from __future__ import annotations

from collections import deque
from threading import Lock

import torch


def mark(stream: torch.cuda.Stream) -> torch.cuda.Event:
    """An event that tells when `stream` came here."""
    event = torch.cuda.Event(enable_timing=True)
    event.record(stream)
    return event


class Stopwatch:
    """Adds up the time between pairs of events, once they have passed. Any thread may time and read."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._pairs: deque[tuple[torch.cuda.Event, torch.cuda.Event]] = deque()
        self._seconds = 0.0

    def add(self, begin: torch.cuda.Event, end: torch.cuda.Event) -> None:
        """Counts the time from `begin` to `end`, two marks on one stream."""
        with self._lock:
            self._pairs.append((begin, end))

    def seconds(self) -> float:
        """Of all that has ended; asks the device, waits for nothing."""
        with self._lock:
            while self._pairs and self._pairs[0][1].query():
                begin, end = self._pairs.popleft()
                self._seconds += begin.elapsed_time(end) / 1000
            return self._seconds
