"""How much to draft: the levels of a round, their width, and the nodes to verify, or nothing at all.

Each choice is the one of most expected tokens a second, from the seconds that steps take here and from how far past
drafts were accepted. Where steps have one shape only (a pass in exact mode), there is nothing to choose.
"""

from __future__ import annotations

import math
import statistics
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from specdecodes.config import Tree

MEMORY = 15
"""Figures remembered of each kind. Their median decides: one slow read does not count."""

ENOUGH = 4  # rounds before past ones are believed
GAIN = 0.1  # by which a round's surprise moves what is learned
PRIOR = 4  # levels for which the usual one counts
USUAL = (3.6, 4.0)  # levels accepted, of those tried, before there were any
FADE = 0.95  # of what is remembered of them, from round to round
PROBE = 16  # of so many rounds, one verifies a little of a tree however unlikely
LOOK = (8, 64)  # rounds until a narrow draft looks around with the full width again: at first, and at most
LUCK = 1.5  # standard errors by which a width has to be ahead
PATIENCE = (8, 64)  # plain rounds before drafting is tried again: at first, and at most
_PLAIN = 0  # the size of a pass that verifies nothing, where even that has more rows than one


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

    def untried(self) -> list[int]:
        """The sizes of which there was no step yet."""
        return [size for size in self._expected if size not in self._called]

    def of(self, size: int) -> float:
        if self._seen[size]:
            return statistics.median(self._seen[size])
        known = [statistics.median(seen) / self._expected[other] for other, seen in self._seen.items() if seen]
        return self._expected[size] * (statistics.median(known) if known else 1.0)


class Pace:
    """Decides round by round, and within a round level by level.

    How often a level is accepted that the one before it was is learned online for each width, and half believed; the
    other half is the draft's own word, raised to a power, `sharpness`, so that predicted and actual accepted tokens
    agree.

    What a level or a row adds is weighed against the rate of the rounds so far, not of its own round: a promising one
    goes deeper than usual, and a poor one ends early.
    """

    def __init__(self, tree: Tree, costs: Costs) -> None:
        self._tree = tree
        self._widths, self._sizes = sorted(costs.levels), sorted(costs.passes)
        self._levels = Seconds(costs.levels)
        self._plain = 1 if self._sizes[0] == 1 else _PLAIN
        self._passes = Seconds({self._plain: costs.passes[self._sizes[0]], **costs.passes})
        self._sharpness = dict.fromkeys(costs.levels, 1.0)
        self._kept = dict.fromkeys(costs.levels, USUAL)  # by width: levels that were accepted, and that were tried
        self._wide: deque[tuple[int, dict[int, int]]] = deque(maxlen=MEMORY)  # rounds of full width: levels, accepted
        self._rounds: deque[tuple[int, int, int, int]] = deque(maxlen=2 * MEMORY)  # tokens, levels, width, rows
        self._ahead: deque[float] = deque(maxlen=MEMORY)  # tokens that a round was ahead of plain decoding
        self._rows: dict[int, int] = {}  # by width: of its last pass
        self._so_far: float | None = None  # tokens a second of `_rounds`
        self._turn = self._look = 0
        self._misses = 0  # rounds in a row that had less than half of what was expected of them
        self._interval = LOOK[0]
        self._pause = self._patience = 0
        self._reach: list[float] = []
        self._share = 1.0  # of the tokens expected of the tree, in the part that is verified
        self._before = self._mark = 0.0
        self.width, self.rows = tree.width, tree.nodes

    @property
    def drafts(self) -> bool:
        """Whether the next round drafts; if not, it is a plain one."""
        return self._pause == 0

    def start(self) -> None:
        """A round begins."""
        self._reach, self._share = [], 1.0
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
        if self._patience and not self._ahead:  # drafting is tried again
            return False
        expected = self._expected()
        # A further level is reached from the one before about as often as levels were so far, here and lately.
        share = (expected[-1] * self._usual() ** PRIOR) ** (1.0 / (len(expected) + PRIOR))
        return self._deeper_pays(expected, share)

    @property
    def chooses_rows(self) -> bool:
        """Whether `verify` wants to know the nodes' chances."""
        return self._tree.adaptive and len(self._sizes) > 1

    def verify(self, chances: Sequence[float]) -> int:
        """Drafting is done: rows of the pass that follows, root included. `chances`: each node's probability to be
        reached as the draft sees it, root excluded, highest first; unused unless `chooses_rows`."""
        if self.chooses_rows:
            expected, total = sum(self._expected()), sum(chances)
            rate = self._rate(expected, self._sizes[-1])
            # A tree that is never verified teaches nothing, so a little of it is, once in a while.
            sizes = self._sizes[self._turn % PROBE == 0 :]
            shares = {rows: sum(chances[: rows - 1]) / total if total else 0.0 for rows in sizes}
            self.rows = max(sizes, key=lambda rows: expected * shares[rows] - rate * self._passes.of(rows))
            self._share = shares[self.rows]
        self._rows[self.width] = self.rows
        self._mark = time.perf_counter()
        return self.rows

    def plain(self) -> int:
        """The round is to be a plain one: rows of its pass."""
        return self._sizes[0]

    def learn(self, accepted: int, ranks: Sequence[int] = ()) -> None:
        """The round is over and `accepted` draft tokens were kept; `ranks`: each one's place in its level."""
        seconds = self._before + time.perf_counter() - self._mark
        if not self._reach:
            self._passes.add(self._plain, seconds)
            if not self._pause:  # there was nothing to propose
                self._rounds.append((1, 0, self.width, self._plain))
            self._pause = max(self._pause - 1, 0)
            return
        self._passes.add(self.rows, seconds)
        predicted = self._share * sum(self._expected())
        kept, tried = self._kept[self.width]
        verified = max(self._share * len(self._reach), accepted)
        self._kept[self.width] = FADE * kept + accepted, FADE * tried + min(accepted + 1.0, verified)
        power = self._sharpness[self.width] * (1.0 + GAIN * (predicted - accepted) / max(predicted, 1.0))
        self._sharpness[self.width] = min(max(power, 0.05), 20.0)
        if self.width == self._tree.width:
            by_width = {width: _leading(ranks, width) for width in self._widths} | {self.width: accepted}
            self._wide.append((len(self._reach), by_width))
        self._rounds.append((1 + accepted, len(self._reach), self.width, self.rows))
        self._misses = self._misses + 1 if 2 * accepted < predicted else 0
        if self._tree.adaptive:
            self._turn += 1
            spent = [self._seconds(*steps) for _, *steps in self._rounds]
            self._so_far = sum(tokens for tokens, *_ in self._rounds) / sum(spent)
            self._judge(1 + accepted, spent[-1])
            self.width = self._next_width()

    def _expected(self) -> list[float]:
        """Chances that the accepted path comes to the levels so far."""
        sharpness, usual = self._sharpness[self.width], self._usual()
        return [(share**sharpness * usual**depth) ** 0.5 for depth, share in enumerate(self._reach, 1)]

    def _deeper_pays(self, expected: Sequence[float], share: float) -> bool:
        """Whether any number of further levels, each reached from the one before with probability `share`, brings more
        tokens than its seconds are worth: a chain's pass may be as long for one row more as for eight."""
        levels, level = len(expected), self._levels.of(self.width)
        rate = self._rate(sum(expected), self._rows_of(self.width, levels))
        reach, gain, now = expected[-1], 0.0, self._pass_after(levels)
        for more in range(1, self._tree.depth - levels + 1):
            reach *= share
            gain += reach
            if gain > rate * (more * level + self._pass_after(levels + more) - now):
                return True
        return False

    def _pass_after(self, levels: int) -> float:
        """Seconds of the pass that a draft of so many levels needs: a chain's has a row for each, a wider tree's as
        many as its last one."""
        return self._passes.of(self._holding(levels) if self.width == 1 else self._rows_of(self.width, levels))

    def _usual(self) -> float:
        """The share of levels that are accepted, where the one before was."""
        kept, tried = self._kept[self.width]
        return kept / tried

    def _rate(self, expected: float, rows: int) -> float:
        """Tokens a second of the rounds so far; at first of this one, with `expected` accepted tokens of `rows`. Plain
        decoding could be had at any time."""
        rate = self._so_far
        if rate is None:
            rate = (1.0 + expected) / self._seconds(len(self._reach), self.width, rows)
        return max(rate, 1.0 / self._passes.of(self._plain))

    def _seconds(self, levels: int, width: int, rows: int) -> float:
        """Of a round, at what its steps take now."""
        return levels * self._levels.of(width) + self._passes.of(rows)

    def _rows_of(self, width: int, levels: int) -> int:
        """Rows of the last pass that followed a draft of `width`; before there was one, as many as `levels` fill."""
        if width in self._rows:
            return self._rows[width]
        return self._holding(width * levels)

    def _holding(self, nodes: int) -> int:
        """Rows of the smallest pass for a root and so many nodes; of the largest where none is large enough."""
        return next((rows for rows in self._sizes if rows > nodes), self._sizes[-1])

    def _judge(self, tokens: int, seconds: float) -> None:
        """Pause drafting where plain decoding is faster: surely so by the rounds since drafting was last taken up, or
        at all if it was taken up to try."""
        self._ahead.append(tokens - seconds / self._passes.of(self._plain))
        if len(self._ahead) < ENOUGH and not self._patience:
            return
        luck = 0.0 if self._patience else _error(self._ahead)
        if statistics.mean(self._ahead) + luck < 0.0:
            self._patience = min(max(2 * self._patience, PATIENCE[0]), PATIENCE[1])
            self._pause = self._patience
            self._ahead.clear()
        elif len(self._ahead) >= ENOUGH:
            self._patience = 0

    def _next_width(self) -> int:
        """Narrow as long as that does well; after two misses it looks around, and otherwise once in a while. Every
        width is tried at once, since its first level may compile."""
        if untried := self._levels.untried():
            return untried[0]
        best, full = self._best_width(), self._tree.width
        if self._misses > 1 and self.width < full:
            return full
        if self.width == full:
            self._interval = min(2 * self._interval, LOOK[1]) if best < full else LOOK[0]
            self._look = self._turn + self._interval
        return full if self._turn >= self._look else best

    def _best_width(self) -> int:
        """By what rounds of full width show, in which a narrower draft would have got as far as its lanes go. Narrow
        rounds tell nothing of wide ones, so that a width has to be ahead by more than may be luck."""
        gains = {width: self._gain_of(width) for width in self._widths[:-1]} if len(self._wide) >= ENOUGH else {}
        best = max(gains, key=lambda width: gains[width], default=self._tree.width)
        return best if gains.get(best, 0.0) > 0.0 else self._tree.width

    def _gain_of(self, width: int) -> float:
        """Tokens a round that drafts of `width` are ahead, at what a second is worth, less the mean's error."""
        full, rate = self._tree.width, self._rate(0.0, self._sizes[-1])

        def seconds(levels: int, width: int) -> float:
            return self._seconds(levels, width, self._rows_of(width, levels))

        gains = [
            rate * (seconds(levels, full) - seconds(levels, width)) - accepted[full] + accepted[width]
            for levels, accepted in self._wide
        ]
        return statistics.mean(gains) - LUCK * _error(gains)


def _error(figures: Sequence[float]) -> float:
    """Of their mean."""
    return statistics.stdev(figures) / math.sqrt(len(figures))


def _leading(ranks: Sequence[int], width: int) -> int:
    """Accepted tokens until one lies outside the first `width` of its level."""
    return next((place for place, rank in enumerate(ranks) if rank >= width), len(ranks))
