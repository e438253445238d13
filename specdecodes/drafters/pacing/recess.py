"""When drafting rests because plain decoding is faster, and when it is tried again."""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Sequence

MEMORY = 15
"""Figures remembered of each kind. Their median decides: one slow read does not count."""

ENOUGH = 4  # rounds before past ones are believed
PATIENCE = (8, 64)  # plain rounds before drafting is tried again: at first, and, as trials fail, at least
SAVED = 0.01
"""Of the seconds of plain rounds: what trials may cost."""

CREDIT = PATIENCE[1]
"""Rows of a trial that need not be paid for in advance: those that the longest patience leaves."""


class Recess:
    """Rests, and the trials that end them; both outlast a request.

    A trial drafts a round, and goes on while that is ahead of plain decoding. It costs what it falls behind, and the
    rows that the draft missed, which it runs first: those of the rest, and of prompts since. For that, a share
    `SAVED` of the seconds of plain rounds is set aside. No trial begins in debt, and rows beyond the `CREDIT`
    are run when they are paid for. So trials take at most 1% of the time spent plainly, over any number of requests and
    however long their prompts, but for one trial of `CREDIT` rows whose debt is not yet paid.
    """

    def __init__(self, row_seconds: float) -> None:
        """`row_seconds`: what running a row that was missed is expected to take until it is measured."""
        self._row_seconds = deque([row_seconds], maxlen=MEMORY)
        self._ahead: deque[float] = deque(maxlen=MEMORY)  # tokens that a round was ahead of plain decoding
        self._patience = 0  # 0: drafting is not in doubt
        self._left = 0  # plain rounds before a trial may begin
        self._saved = 0.0  # seconds; below 0 a debt

    @property
    def rests(self) -> bool:
        """Whether rounds are plain until a trial is due."""
        return self._patience > 0 and not self._ahead

    def over(self, missed: int) -> bool:
        """Whether the next round drafts, of which the draft has to run `missed` rows first."""
        if not self._patience:
            return True
        due = not self.rests or (self._left == 0 and self._saved >= 0.0)
        return due and (missed <= CREDIT or self._saved >= (missed - CREDIT) * min(self._row_seconds))

    def caught_up(self, missed: int, seconds: float) -> None:
        """Those rows took `seconds`."""
        self._row_seconds.append(seconds / missed)
        if self._patience:
            self._saved -= seconds

    def rested(self, seconds: float) -> None:
        """A round was plain and took `seconds`."""
        if self._patience:
            self._left = max(self._left - 1, 0)
            self._saved += SAVED * seconds

    def judge(self, ahead: float, plain: float) -> None:
        """A round that drafted was `ahead` of plain decoding by so many tokens, which take that `plain` seconds each.

        Drafting rests where it is surely behind by the rounds since it was last taken up, or behind at all in a trial.
        """
        self._ahead.append(ahead)
        if len(self._ahead) < ENOUGH and not self._patience:
            return
        luck = 0.0 if self._patience else error_of(self._ahead)
        if statistics.fmean(self._ahead) + luck < 0.0:
            if self._patience:
                self._saved += sum(self._ahead) * plain
            self._patience = min(max(2 * self._patience, PATIENCE[0]), PATIENCE[1])
            self._left = self._patience
            self._ahead.clear()
        elif len(self._ahead) >= ENOUGH:
            self._patience = 0


def error_of(figures: Sequence[float]) -> float:
    """Standard error of their mean."""
    middle, count = statistics.fmean(figures), len(figures)  # not statistics.stdev, which takes as long as a small step
    return math.sqrt(sum((figure - middle) ** 2 for figure in figures) / (count * (count - 1)))
