"""How much to draft: the levels of a round, their width, and the nodes to verify, or nothing at all.

Each choice is the one of most expected tokens a second, from the seconds that steps take here and from how far past
drafts were accepted. Where steps have one shape only (a pass in exact mode), there is nothing to choose.
"""

from __future__ import annotations

import statistics
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from specdecodes.config import Tree

MEMORY = 15
"""Figures remembered of each kind. Their median decides: one slow read does not count."""

ENOUGH = 4  # rounds before past ones are believed
PROBE = 16  # a narrow draft looks around with the full width once in so many rounds
PATIENCE = (8, 64)  # plain rounds before drafting is tried again: at first, and at most
_PLAIN = 0  # the size of a pass that verifies nothing


@dataclass(frozen=True)
class Costs:
    """Expected seconds: `levels` of a draft level by width, `passes` of the rest of a round by rows verified.

    Their keys are the sizes there are; the largest are the tree's.
    """

    levels: Mapping[int, float]
    passes: Mapping[int, float]


class Seconds:
    """Of one kind of step, by size: what was measured, or what was expected times how wrong that was elsewhere."""

    def __init__(self, expected: Mapping[int, float]) -> None:
        self._expected = dict(expected)
        self._seen: dict[int, deque[float]] = {size: deque(maxlen=MEMORY) for size in expected}
        self._called: set[int] = set()

    def add(self, size: int, seconds: float) -> None:
        """A step of `size` took `seconds`. The first of a size may have compiled, and is not counted."""
        if size in self._called:
            self._seen[size].append(seconds)
        self._called.add(size)

    def of(self, size: int) -> float:
        if self._seen[size]:
            return statistics.median(self._seen[size])
        known = [statistics.median(seen) / self._expected[other] for other, seen in self._seen.items() if seen]
        return self._expected[size] * (statistics.median(known) if known else 1.0)


class Pace:
    """Decides round by round, and within a round level by level.

    A draft's own probability that a level is reached is off by a power that depends on model and text; `sharpness` is
    that power, learned online for each width so that predicted and actual accepted tokens agree.
    """

    def __init__(self, tree: Tree, costs: Costs) -> None:
        self._tree = tree
        self._widths, self._sizes = sorted(costs.levels), sorted(costs.passes)
        self._levels = Seconds(costs.levels)
        self._passes = Seconds({_PLAIN: costs.passes[self._sizes[0]], **costs.passes})
        self._sharpness = dict.fromkeys(costs.levels, 1.0)
        self._accepted: deque[dict[int, int]] = deque(maxlen=MEMORY)  # by width, of rounds of full width
        self._rounds: deque[tuple[int, int, int, int]] = deque(maxlen=MEMORY // 2)  # tokens, levels, width, rows
        self._turn = 0
        self._pause = self._patience = 0
        self._reach: list[float] = []
        self._before = self._mark = 0.0
        self.width, self.rows = tree.width, tree.nodes

    @property
    def drafts(self) -> bool:
        """Whether the next round drafts; if not, it is a plain one."""
        return self._pause == 0

    def start(self) -> None:
        """A round begins."""
        self._reach = []
        self._before = 0.0
        self._mark = time.perf_counter()

    def ready(self) -> int:
        """The draft has seen all that is committed, and its levels begin: their width."""
        now = time.perf_counter()
        self._before, self._mark = now - self._mark, now
        return self.width

    def more(self, reach: float) -> bool:
        """A level was drafted that the accepted path reaches with probability `reach`, as the draft sees it: draft
        another?"""
        now = time.perf_counter()
        self._levels.add(self.width, now - self._mark)
        self._mark = now
        self._reach.append(min(reach, 1.0))
        if len(self._reach) >= self._tree.depth:
            return False
        if not self._tree.adaptive:
            return True
        expected, level = self._expected(), self._levels.of(self.width)
        tokens, seconds = 1.0 + sum(expected), self._passes.of(self.rows) + level * len(expected)
        # The next level is reached from this one about as often as each level was reached from the one before.
        following = expected[-1] * expected[-1] ** (1.0 / len(expected))
        return following * seconds > tokens * level

    @property
    def chooses_rows(self) -> bool:
        """Whether `verify` wants to know the nodes' chances."""
        return self._tree.adaptive and len(self._sizes) > 1

    def verify(self, chances: Sequence[float]) -> int:
        """Drafting is done: rows of the pass that follows, root included. `chances`: each node's probability to be
        reached as the draft sees it, root excluded, highest first; unused unless `chooses_rows`."""
        if self.chooses_rows:
            spent, total = self._levels.of(self.width) * len(self._reach), sum(chances)
            expected = sum(self._expected())

            def rate(rows: int) -> float:
                share = sum(chances[: rows - 1]) / total if total else 0.0
                return (1.0 + expected * share) / (spent + self._passes.of(rows))

            self.rows = max(self._sizes, key=rate)
        self._mark = time.perf_counter()
        return self.rows

    def plain(self) -> int:
        """The round is to be a plain one: rows of its pass."""
        return self._sizes[0]

    def learn(self, accepted: int, ranks: Sequence[int] = ()) -> None:
        """The round is over and `accepted` draft tokens were kept; `ranks`: each one's place in its level."""
        seconds = self._before + time.perf_counter() - self._mark
        if not self._reach:
            self._passes.add(_PLAIN, seconds)
            self._pause = max(self._pause - 1, 0)
            return
        self._passes.add(self.rows, seconds)
        predicted = sum(self._expected())
        power = self._sharpness[self.width] * (1.0 + 0.1 * (predicted - accepted) / max(predicted, 1.0))
        self._sharpness[self.width] = min(max(power, 0.05), 20.0)
        if self.width == self._tree.width:
            self._accepted.append({width: _leading(ranks, width) for width in self._widths} | {self.width: accepted})
        self._rounds.append((1 + accepted, len(self._reach), self.width, self.rows))
        if self._tree.adaptive:
            self._turn += 1
            self._pause_if_plain_is_faster()
            self.width = self._best_width()

    def _expected(self) -> list[float]:
        return [share ** self._sharpness[self.width] for share in self._reach]

    def _pause_if_plain_is_faster(self) -> None:
        if len(self._rounds) < ENOUGH:
            return
        tokens = sum(count for count, *_ in self._rounds)
        seconds = sum(
            levels * self._levels.of(width) + self._passes.of(rows) for _, levels, width, rows in self._rounds
        )
        if tokens * self._passes.of(_PLAIN) < seconds:
            self._patience = min(max(2 * self._patience, PATIENCE[0]), PATIENCE[1])
            self._pause = self._patience
        else:
            self._patience = 0

    def _best_width(self) -> int:
        """By what rounds of full width show: a narrower draft would have got as far as its lanes go."""
        if len(self._accepted) < ENOUGH or self._turn % PROBE == 0:
            return self._tree.width
        levels = statistics.mean(levels for _, levels, *_ in self._rounds)
        rest = self._passes.of(self.rows)

        def rate(width: int) -> float:
            tokens = 1.0 + statistics.mean(accepted[width] for accepted in self._accepted)
            return tokens / (levels * self._levels.of(width) + rest)

        return max(self._widths, key=rate)


def _leading(ranks: Sequence[int], width: int) -> int:
    """Accepted tokens until one lies outside the first `width` of its level."""
    return next((place for place, rank in enumerate(ranks) if rank >= width), len(ranks))
