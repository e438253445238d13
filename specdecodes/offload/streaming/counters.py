"""What a weight stream has done: bytes, seconds, layers."""

from __future__ import annotations

import time
from dataclasses import dataclass


@dataclass(frozen=True)
class StreamCounters:
    """Totals since the stream was made; the difference of two snapshots is what it did between them."""

    bytes_read: int = 0
    read_seconds: float = 0.0  # wall time with at least one read under way
    wait_seconds: float = 0.0  # the caller standing still for a layer
    layers: int = 0  # layers handed out

    def __add__(self, other: StreamCounters) -> StreamCounters:
        return StreamCounters(
            self.bytes_read + other.bytes_read,
            self.read_seconds + other.read_seconds,
            self.wait_seconds + other.wait_seconds,
            self.layers + other.layers,
        )

    def __sub__(self, other: StreamCounters) -> StreamCounters:
        return self + StreamCounters(-other.bytes_read, -other.read_seconds, -other.wait_seconds, -other.layers)

    @property
    def gbps(self) -> float:
        """GB/s while reading; 0 when nothing was read."""
        return self.bytes_read / self.read_seconds / 1e9 if self.read_seconds else 0.0


class ReadClock:
    """Wall time with at least one read under way, of those that go on at once."""

    def __init__(self) -> None:
        self._under_way, self._since = 0, 0.0

    def begin(self) -> None:
        if not self._under_way:
            self._since = time.perf_counter()
        self._under_way += 1

    def end(self) -> float:
        """Ends a read; the seconds that are over now, 0 as long as another one goes on."""
        self._under_way -= 1
        return 0.0 if self._under_way else time.perf_counter() - self._since

    def running(self) -> float:
        """Seconds since reads have been under way."""
        return time.perf_counter() - self._since if self._under_way else 0.0
