"""How far a middle model goes ahead of the target: another of its rounds, or what it has to the target now.

A round of the middle model lengthens the chain by what its own rounds yield; the target accepts each further token with
the chance that it has shown so far. One more round is worth it while it raises the expected tokens a second.
"""

from __future__ import annotations

import statistics
import time
from collections import deque
from collections.abc import Mapping

from specdecodes.config import Tree
from specdecodes.drafters.pacing.recess import MEMORY
from specdecodes.drafters.pacing.resting import Resting

BELIEF = (4.0, 5.0)  # accepted, of so many, before any were seen


class Stride(Resting):
    """`least` tokens at least, if the tree's `depth` and `nodes` hold as many; adaptive, as many as pay."""

    def __init__(
        self, tree: Tree, least: int, round_s: float, round_tokens: float, passes: Mapping[int, float]
    ) -> None:
        """What is expected until it is measured: the seconds and tokens of the middle model's rounds, and the seconds
        of the target's passes by their rows."""
        super().__init__(passes, round_s)
        self.most = min(tree.depth, tree.nodes - 1)
        self._least, self._adaptive = min(least, self.most), tree.adaptive
        self._seen: deque[tuple[float, float]] = deque([(round_s, round_tokens)], maxlen=MEMORY)  # of the middle model
        self._chains: deque[tuple[int, int]] = deque(maxlen=MEMORY)  # tokens offered and accepted
        self._rounds: deque[tuple[int, float]] = deque(maxlen=MEMORY)  # tokens and seconds
        self._mark = self._ahead = 0.0
        self._rows = self._sizes[-1]

    @property
    def acceptance(self) -> float:
        """The chance that the target accepts a token whose predecessors it has accepted."""
        accepted = sum(taken for _, taken in self._chains)
        refused = sum(taken < offered for offered, taken in self._chains)
        return (BELIEF[0] + accepted) / (BELIEF[1] + accepted + refused)

    def start(self, missed: int = 0) -> None:
        """A round begins; the middle model has yet to run `missed` committed rows."""
        self._missed = missed
        self._mark, self._ahead = time.perf_counter(), 0.0

    def ready(self) -> None:
        """Those rows were run."""
        now = time.perf_counter()
        self._recess.caught_up(self._missed, now - self._mark)
        self._mark = now

    def ran(self, seconds: float, tokens: int) -> None:
        """A round of the middle model took `seconds` and yielded `tokens`."""
        self._seen.append((seconds, tokens))

    def more(self, length: int) -> bool:
        """Whether a chain of `length` tokens is to be made longer."""
        if self._recess.rests:  # a trial
            return length == 0
        if length < self._least:
            return True
        if not self._adaptive or length >= self.most:
            return False
        share, seconds = self.acceptance, statistics.median(seconds for seconds, _ in self._seen)
        longer = min(self.most, length + max(1, round(statistics.mean(tokens for _, tokens in self._seen))))
        gain = sum(share**place for place in range(length + 1, longer + 1))
        so_far = 1.0 + sum(share**place for place in range(1, length + 1))
        spent = time.perf_counter() - self._mark + self._passes.of(self._size(length + 1))
        return gain * spent > so_far * seconds

    def rows(self, nodes: int) -> int:
        """Rows of a pass that verifies `nodes`, root included."""
        self._rows = self._size(nodes)
        return self._rows

    def offer(self) -> None:
        """The chain goes to the target."""
        now = time.perf_counter()
        self._ahead, self._mark = now - self._mark, now

    def learn(self, offered: int, accepted: int) -> None:
        """The target took `accepted` of the `offered` tokens."""
        seconds = time.perf_counter() - self._mark
        if not offered:
            self._was_plain(seconds)
            return
        self._passes.add(self._rows, seconds)
        self._chains.append((offered, accepted))
        if self._adaptive:
            spent = self._ahead + self._passes.of(self._rows)
            self._rounds.append((1 + accepted, spent))
            tokens, seconds = (sum(figures) for figures in zip(*self._rounds, strict=True))
            self._hold_against_plain(1 + accepted, spent, tokens / seconds)

    def _size(self, nodes: int) -> int:
        return next(size for size in self._sizes if size >= nodes)
