"""What steps take: as a plan expects it, and as it turns out."""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

from specdecodes.drafters.pacing.recess import MEMORY


@dataclass(frozen=True)
class Costs:
    """Expected seconds: `levels` of a draft level by width, `passes` of the rest of a round by rows verified.

    Their keys are the sizes there are; the largest are the tree's.
    """

    levels: Mapping[int, float]
    passes: Mapping[int, float]


class Seconds:
    """Of one kind of step, by size: what was measured, or what was expected times how wrong that was elsewhere."""

    def __init__(self, expected: Mapping[int, float], memory: Mapping[int, int] | None = None) -> None:
        """`memory`: of sizes of which not MEMORY steps are remembered, but so many."""
        self._expected, kept = dict(expected), memory or {}
        self._seen: dict[int, deque[float]] = {size: deque(maxlen=kept.get(size, MEMORY)) for size in expected}
        self._called: set[int] = set()
        self._now: dict[int, float] = {}  # what was last told, until something is added

    def add(self, size: int, seconds: float) -> None:
        """A step of `size` took `seconds`. The first of a size may have compiled, and is not counted."""
        if size in self._called:
            self._seen[size].append(seconds)
            self._now = {other: now for other, now in self._now.items() if other != size and self._seen[other]}
        self._called.add(size)

    def untried(self) -> list[int]:
        """The sizes of which there was no step yet."""
        return [size for size in self._expected if size not in self._called]

    def measured(self, size: int) -> bool:
        """Whether a step of `size` was counted."""
        return bool(self._seen[size])

    def of(self, size: int) -> float:
        if size not in self._now:
            self._now[size] = self._told(size)
        return self._now[size]

    def least(self, size: int) -> float:
        """Of the cheapest size there is: no more than any other's that was measured. What is seldom timed may have been
        timed on a slow moment, and would be believed for long."""
        return min([self.of(size), *(self.of(other) for other, seen in self._seen.items() if seen)])

    def _told(self, size: int) -> float:
        if self._seen[size]:
            return statistics.median(self._seen[size])
        known = [self.of(other) / self._expected[other] for other, seen in self._seen.items() if seen]
        return self._expected[size] * (statistics.median(known) if known else 1.0)
