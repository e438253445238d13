"""When plain rounds are timed again while drafting goes on: a machine is not equally fast at all times."""

from __future__ import annotations

AGAIN = 32  # rounds of drafting behind which plain ones are timed again
SOON = 4  # rounds of drafting behind which they are timed for the first time
LOOKS = 3  # plain rounds in a row, then
FEW = 5  # plain rounds remembered: more than half of them are the last LOOKS
CLOSE = 1.4  # times plain decoding: where drafting is faster than that, it is not asked
DOUBT = 2.0  # times as fast as expected that plain decoding may turn out to be
PLAIN = 0  # the size of a pass behind no draft: what a draft leaves to its round is not in it


class Looks:
    """Counts the rounds until plain ones are to be timed, and those to time then.

    Where a pass takes seconds, a look is as dear as a round that brings ten tokens. So the first one too waits until
    some rounds have told how fast drafting is, and is left out where plain decoding would not be as fast even if it
    were twice as fast as a plan, scaled by the passes there were, expects.
    """

    def __init__(self) -> None:
        self._since, self._left = AGAIN - SOON, 0

    @property
    def due(self) -> bool:
        """Whether the next round is to be plain, to be timed."""
        return self._left > 0

    def timed(self) -> None:
        """A round was plain."""
        self._left = max(self._left - 1, 0)

    def drafted(self, ahead: float, *, guessed: bool, rests: bool) -> None:
        """A round drafted, and drafting is so many times as fast as plain decoding; `guessed`: no plain round was timed
        yet. `rests`: drafting rests from now on, and all rounds are plain."""
        self._since = 0 if rests else self._since + 1
        if self._since >= AGAIN and ahead < CLOSE * (DOUBT if guessed else 1.0):
            self._since, self._left = 0, LOOKS
