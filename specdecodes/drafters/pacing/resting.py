"""Drafting held against plain decoding, round by round: when it rests, and when plain rounds are timed."""

from __future__ import annotations

from collections.abc import Mapping

from specdecodes.drafters.pacing.looks import FEW, PLAIN, Looks
from specdecodes.drafters.pacing.recess import Recess
from specdecodes.drafters.pacing.seconds import Seconds


class Resting:
    """What every pace of drafting has: it rests where plain decoding is faster."""

    def __init__(self, passes: Mapping[int, float], row_seconds: float) -> None:
        """What is expected until it is measured: the seconds of passes by their rows, and of a row that was missed."""
        self._sizes = sorted(passes)
        self._passes = Seconds({PLAIN: passes[self._sizes[0]], **passes}, {PLAIN: FEW})
        self._recess, self._looks = Recess(row_seconds), Looks()
        self._missed = 0  # rows that the draft has to run before it begins

    @property
    def rests(self) -> bool:
        """Whether drafting rests since plain decoding is faster; see `Recess`."""
        return self._recess.rests

    @property
    def drafts(self) -> bool:
        """Whether the round that has started drafts; if not, it is a plain one."""
        return not self._looks.due and self._recess.over(self._missed)

    def _was_plain(self, seconds: float) -> None:
        self._passes.add(PLAIN, seconds)
        self._recess.rested(self._passes.least(PLAIN))
        self._looks.timed()

    def _hold_against_plain(self, tokens: int, spent: float, rate: float) -> None:
        """A round drafted: its tokens and seconds, and the tokens a second of the rounds so far."""
        plain = self._passes.least(PLAIN)
        self._recess.judge(tokens - spent / plain, plain)
        if len(self._sizes) > 1:  # plain rounds are other passes
            guessed = not self._passes.measured(PLAIN)
            self._looks.drafted(rate * plain, guessed=guessed, rests=self.rests)
