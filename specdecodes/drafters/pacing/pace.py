"""How much to draft: the levels of a round, their width, and the nodes to verify, or nothing at all.

Each choice is the one of most expected tokens a second, from the seconds that steps take here and the chances
of what is proposed. Where steps have one shape only (a pass in exact mode), there is nothing to choose.
"""

from __future__ import annotations

import statistics
import time
from collections import deque
from collections.abc import Sequence

from specdecodes.config import Tree
from specdecodes.drafters.pacing.looks import PLAIN
from specdecodes.drafters.pacing.recess import ENOUGH, MEMORY, error_of
from specdecodes.drafters.pacing.resting import Resting
from specdecodes.drafters.pacing.seconds import Costs, Seconds

PRIOR = 4  # levels for which the usual one counts
USUAL = (3.6, 4.0)  # levels reached, and those before them, until there were any
FADE = 0.95  # of what is remembered of them, from round to round
PROBE = 16  # of so many rounds, one verifies a little of a tree however unlikely
WIDE = 64  # rounds of full width that are remembered: widths differ by less than rounds do
LOOK = 0.01  # of the tokens: what chains may spend on looking whether wide rounds would do better now
SELDOM = 32  # rounds between two such looks at least
LUCK = 2.0  # standard errors by which chains have to be ahead
SURPLUS = 1.02  # times plain decoding that drafting has to be: what it takes is more than its steps' medians


class Pace(Resting):
    """Decides round by round, and within a round level by level.

    What a level or a row adds is weighed against the rate of the rounds so far, not of its own round: a promising one
    goes deeper than usual, and a poor one ends early. Chances are the draft's, made trustworthy by whoever asks
    (`trust.py`); what lies beyond the levels drafted is taken to go on as levels usually do.
    """

    def __init__(self, tree: Tree, costs: Costs) -> None:
        super().__init__(costs.passes, max(costs.levels.values()) / max(costs.levels))
        self._tree = tree
        self._widths = sorted(costs.levels)
        self._levels = Seconds(costs.levels)
        self._shares = dict.fromkeys(costs.levels, USUAL)  # by width: chances of levels, and of those before them
        self._gains: deque[float] = deque(maxlen=WIDE)  # tokens that a chain would have been ahead of a wide round
        self._rounds: deque[tuple[int, int, int, int]] = deque(maxlen=2 * MEMORY)  # tokens, levels, width, rows
        self._rows: dict[int, int] = {}  # by width: of its last pass
        self._so_far: float | None = None  # tokens a second of `_rounds`
        self._turn = self._look = 0
        self._began = False
        self._reach: list[float] = []
        self._before = self._mark = 0.0
        self._deciding = 0.0  # seconds that the last round's lesson took
        self.width, self.rows = tree.width, tree.nodes

    @property
    def habits(self) -> tuple[float, ...]:
        """How often levels were reached from those before them: both counts, by width from the least."""
        return tuple(count for width in self._widths for count in self._shares[width])

    def resume(self, habits: Sequence[float]) -> None:
        """Go on from the `habits` of another of the same widths; its seconds are its own."""
        self._shares = {width: (habits[2 * n], habits[2 * n + 1]) for n, width in enumerate(self._widths)}

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
            self._was_plain(seconds)
            if self._began:  # there was nothing to propose
                self._rounds.append((1, 0, self.width, PLAIN))
            return
        self._passes.add(self.rows, self._before + seconds + self._deciding)
        reached, before = self._shares[self.width]
        self._shares[self.width] = FADE * reached + sum(self._reach), FADE * before + 1.0 + sum(self._reach[:-1])
        self._rounds.append((1 + accepted, len(self._reach), self.width, self.rows))
        if self._tree.adaptive:
            self._turn += 1
            spent = [self._seconds(*steps) for _, *steps in self._rounds]
            self._so_far = sum(tokens for tokens, *_ in self._rounds) / sum(spent)
            self._hold_against_plain(1 + accepted, SURPLUS * spent[-1], self._so_far)
            self.width = self._next_width()
            self._deciding = time.perf_counter() - now

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
        return max(rate, 1.0 / self._passes.least(PLAIN))

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
        """Chains where they do well, but for a wide round once in a while, the rarer the more it costs. They are first
        tried when what wide rounds show is for them, or has been asked often: what a level of them takes was only
        expected."""
        narrow, full = self._widths[0], self._tree.width
        promising = len(self._gains) >= 2 * ENOUGH or sum(self._gains) > 0.0
        if promising and (untried := self._levels.untried()):
            return untried[0]
        if not self._chains_pay():
            return full
        if self.width == full:
            tokens = statistics.fmean(tokens for tokens, *_ in self._rounds)
            self._look = self._turn + max(SELDOM, int(statistics.fmean(self._gains) / (LOOK * tokens)))
        return full if self._turn >= self._look else narrow

    def _chains_pay(self) -> bool:
        """By what wide rounds show, in which a chain is ahead by more than may be luck."""
        return len(self._gains) >= 2 * ENOUGH and statistics.fmean(self._gains) > LUCK * error_of(self._gains)
