"""What a weight stream has done: bytes, seconds, layers."""

from __future__ import annotations

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
