"""How much to draft: the levels of a round, their width, and the nodes to verify, or nothing at all.

Each choice is the one of most expected tokens a second, from the seconds that steps take here and the chances
of what is proposed. Where steps have one shape only (a pass in exact mode), there is nothing to choose.
"""

from __future__ import annotations

import statistics
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from specdecodes.config import Tree
from specdecodes.drafters.recess import ENOUGH, MEMORY, Recess, error_of

PRIOR = 4  # levels for which the usual one counts
USUAL = (3.6, 4.0)  # levels reached, and those before them, until there were any
FADE = 0.95  # of what is remembered of them, from round to round
PROBE = 16  # of so many rounds, one verifies a little of a tree however unlikely
WIDE = 64  # rounds of full width that are remembered: widths differ by less than rounds do
LOOK = 0.01  # of the tokens: what chains may spend on looking whether wide rounds would do better now
SELDOM = 32  # rounds between two such looks at least
LUCK = 2.0  # standard errors by which chains have to be ahead
AGAIN = 32  # rounds behind which plain ones are timed again: a machine is not equally fast at all times
LOOKS = 3  # plain rounds in a row, then
FEW = 5  # plain rounds remembered: more than half of them are the last LOOKS
SURPLUS = 1.02  # times plain decoding that drafting has to be: what it takes is more than its steps' medians
CLOSE = 1.4  # times plain decoding: where drafting is faster than that, it is not asked
_PLAIN = 0  # the size of a pass behind no draft: what a draft leaves to its round is not in it


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
            self._now = {}
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

    def _told(self, size: int) -> float:
        if self._seen[size]:
            return statistics.median(self._seen[size])
        known = [statistics.median(seen) / self._expected[other] for other, seen in self._seen.items() if seen]
        return self._expected[size] * (statistics.median(known) if known else 1.0)


class Pace:
    """Decides round by round, and within a round level by level.

    What a level or a row adds is weighed against the rate of the rounds so far, not of its own round: a promising one
    goes deeper than usual, and a poor one ends early. Chances are the draft's, made trustworthy by whoever asks
    (`drafters/trust.py`); what lies beyond the levels drafted is taken to go on as levels usually do.
    """

    def __init__(self, tree: Tree, costs: Costs) -> None:
        self._tree = tree
        self._widths, self._sizes = sorted(costs.levels), sorted(costs.passes)
        self._levels = Seconds(costs.levels)
        self._passes = Seconds({_PLAIN: costs.passes[self._sizes[0]], **costs.passes}, {_PLAIN: FEW})
        self._shares = dict.fromkeys(costs.levels, USUAL)  # by width: chances of levels, and of those before them
        self._gains: deque[float] = deque(maxlen=WIDE)  # tokens that a chain would have been ahead of a wide round
        self._rounds: deque[tuple[int, int, int, int]] = deque(maxlen=2 * MEMORY)  # tokens, levels, width, rows
        self._rows: dict[int, int] = {}  # by width: of its last pass
        self._so_far: float | None = None  # tokens a second of `_rounds`
        self._turn = self._look = 0
        self._since, self._looks = AGAIN - 2, 0  # rounds since plain ones were timed, and those to time now
        self._recess = Recess(max(costs.levels.values()) / max(costs.levels))
        self._missed = 0  # rows that the draft has to run before its first level
        self._began = False
        self._reach: list[float] = []
        self._before = self._mark = 0.0
        self._deciding = 0.0  # seconds that the last round's lesson took
        self.width, self.rows = tree.width, tree.nodes

    @property
    def rests(self) -> bool:
        """Whether drafting rests since plain decoding is faster; see `Recess`."""
        return self._recess.rests

    @property
    def drafts(self) -> bool:
        """Whether the round that has started drafts; if not, it is a plain one."""
        return self._looks == 0 and self._recess.over(self._missed)

    def start(self, missed: int = 0) -> None:
        """A round begins; the draft has yet to run `missed` committed rows."""
        self._reach, self._missed = [], missed
        self._before, self._began = 0.0, False
        self._mark = time.perf_counter()

    def ready(self) -> int:
        """The draft has seen all that is committed, and its levels begin: their width."""
        now = time.perf_counter()
        before, self._mark, self._began = now - self._mark, now, True
        if self._missed > (0 if self._recess.rests else self._tree.depth + 1):  # more than a round leaves
            self._recess.caught_up(self._missed, before)
        else:
            self._before = before
        return self.width

    def more(self, reach: float) -> bool:
        """A level was drafted that the accepted path reaches with chance `reach`: draft another?"""
        now = time.perf_counter()
        self._levels.add(self.width, now - self._mark)
        self._mark = now
        self._reach.append(min(reach, 1.0))
        if len(self._reach) >= self._tree.depth:
            return False
        if not self._tree.adaptive:
            return True
        if self._recess.rests:  # a trial
            return False
        return self._deeper_pays(self.width, self._reach)

    @property
    def chooses(self) -> bool:
        """Whether `verify` wants to know the nodes' chances."""
        return self._tree.adaptive

    @property
    def compares(self) -> bool:
        """Whether `verify` wants to know what a chain would have proposed."""
        return self.chooses and self.width > self._widths[0]

    def verify(self, chances: Sequence[float], chain: Sequence[Sequence[float]] = ()) -> int:
        """Drafting is done: rows of the pass that follows, root included.

        `chances`: each node's to be accepted, root excluded, highest first; unused unless `chooses`. `chain`: those of
        the root's children, of its best child's and so on, as far as the draft ran them; unused unless `compares`.
        """
        if self.chooses:
            # A tree that is never verified teaches nothing, so a little of it is, once in a while and in a trial.
            learns = self._turn % PROBE == 0 or self._recess.rests
            sizes = self._sizes[len(self._sizes) > 1 and learns :]
            worth = {rows: self._worth(len(self._reach), self.width, rows, chances) for rows in sizes}
            self.rows = max(worth, key=lambda rows: worth[rows])
            if self.compares:
                self._gains.append(self._worth_of_chain(chain) - worth[self.rows])
        self._rows[self.width] = self.rows
        return self.rows

    def plain(self) -> int:
        """The round is to be a plain one: rows of its pass."""
        return self._sizes[0]

    def learn(self, accepted: int) -> None:
        """The round is over and `accepted` draft tokens were kept."""
        now = time.perf_counter()
        seconds = now - self._mark
        if not self._reach:
            self._passes.add(_PLAIN, seconds)
            self._recess.rested(self._passes.of(_PLAIN))
            self._looks = max(self._looks - 1, 0)
            if self._began:  # there was nothing to propose
                self._rounds.append((1, 0, self.width, _PLAIN))
            return
        self._passes.add(self.rows, self._before + seconds + self._deciding)
        reached, before = self._shares[self.width]
        self._shares[self.width] = FADE * reached + sum(self._reach), FADE * before + 1.0 + sum(self._reach[:-1])
        self._rounds.append((1 + accepted, len(self._reach), self.width, self.rows))
        if self._tree.adaptive:
            self._turn += 1
            spent = [self._seconds(*steps) for _, *steps in self._rounds]
            self._so_far = sum(tokens for tokens, *_ in self._rounds) / sum(spent)
            plain = self._passes.of(_PLAIN)
            self._recess.judge(1 + accepted - SURPLUS * spent[-1] / plain, plain)
            self.width = self._next_width()
            self._look_at_plain(plain)
            self._deciding = time.perf_counter() - now

    def _look_at_plain(self, plain: float) -> None:
        """Have plain rounds timed now and then, where they are not the same passes and drafting is not far ahead."""
        self._since = 0 if self.rests else self._since + 1
        close = not self._passes.measured(_PLAIN) or (self._so_far or 0.0) * plain < CLOSE
        if len(self._sizes) > 1 and self._since >= AGAIN and close:
            self._since, self._looks = 0, LOOKS

    def _deeper_pays(self, width: int, reaches: Sequence[float]) -> bool:
        """Whether any number of further levels, each reached from the one before about as often as levels were so far,
        here and lately, brings more tokens than its seconds are worth: a chain's pass may be as long for one row more
        as for eight. `reaches`: the chances of the levels so far."""
        levels, level, (reached, before) = len(reaches), self._levels.of(width), self._shares[width]
        share = (reaches[-1] * (reached / before) ** PRIOR) ** (1.0 / (levels + PRIOR))
        rate = self._rate()
        reach, gain, now = reaches[-1], 0.0, self._pass_after(width, levels)
        for more in range(1, self._tree.depth - levels + 1):
            reach *= share
            gain += reach
            if gain > rate * (more * level + self._pass_after(width, levels + more) - now):
                return True
        return False

    def _worth(self, levels: int, width: int, rows: int, chances: Sequence[float]) -> float:
        """Accepted tokens that a tree with these `chances`, highest first, brings beyond what its seconds are worth."""
        return sum(chances[: rows - 1]) - self._rate() * self._seconds(levels, width, rows)

    def _worth_of_chain(self, chain: Sequence[Sequence[float]]) -> float:
        """The same of the chain that would have been drafted in place of a wide tree."""
        width, firsts = self._widths[0], [max(children) for children in chain]
        levels = next((n for n in range(1, len(chain)) if not self._deeper_pays(width, firsts[:n])), len(chain))
        chances = sorted((chance for children in chain[:levels] for chance in children), reverse=True)
        return max(self._worth(levels, width, rows, chances) for rows in self._sizes)

    def _pass_after(self, width: int, levels: int) -> float:
        """Seconds of the pass that a draft of so many levels needs: a chain's has a row for each, a wider tree's as
        many as its last one."""
        return self._passes.of(self._holding(levels) if width == 1 else self._rows_of(width, levels))

    def _rate(self) -> float:
        """Tokens a second of the rounds so far; at first of this one. Plain decoding could be had at any time."""
        rate = self._so_far
        if rate is None:
            rate = (1.0 + sum(self._reach)) / self._seconds(len(self._reach), self.width, self._sizes[-1])
        return max(rate, 1.0 / self._passes.of(_PLAIN))

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

    def _next_width(self) -> int:
        """Chains where they do well, but for a wide round once in a while, the rarer the more it costs. Every width is
        tried at once, since its first level may compile."""
        if untried := self._levels.untried():
            return untried[0]
        narrow, full = self._widths[0], self._tree.width
        if not self._chains_pay():
            return full
        if self.width == full:
            tokens = statistics.fmean(tokens for tokens, *_ in self._rounds)
            self._look = self._turn + max(SELDOM, int(statistics.fmean(self._gains) / (LOOK * tokens)))
        return full if self._turn >= self._look else narrow

    def _chains_pay(self) -> bool:
        """By what wide rounds show, in which a chain is ahead by more than may be luck."""
        return len(self._gains) >= 2 * ENOUGH and statistics.fmean(self._gains) > LUCK * error_of(self._gains)
