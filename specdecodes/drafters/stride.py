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
from specdecodes.drafters.pace import ENOUGH, MEMORY, PATIENCE, Seconds

BELIEF = (4.0, 5.0)  # accepted, of so many, before any were seen


class Stride:
    """`least` tokens at least, if the tree's `depth` and `nodes` hold as many; adaptive, as many as pay."""

    def __init__(
        self, tree: Tree, least: int, round_s: float, round_tokens: float, passes: Mapping[int, float]
    ) -> None:
        """What is expected until it is measured: the seconds and tokens of the middle model's rounds, and the seconds
        of the target's passes by their rows."""
        self.most = min(tree.depth, tree.nodes - 1)
        self._least, self._adaptive = min(least, self.most), tree.adaptive
        self._sizes = sorted(passes)
        self._passes = Seconds(passes)
        self._seen: deque[tuple[float, float]] = deque([(round_s, round_tokens)], maxlen=MEMORY)  # of the middle model
        self._chains: deque[tuple[int, int]] = deque(maxlen=MEMORY)  # tokens offered and accepted
        self._rounds: deque[tuple[int, float, int]] = deque(maxlen=MEMORY // 2)  # tokens, seconds ahead, rows
        self._pause = self._patience = 0
        self._mark = self._ahead = 0.0
        self._rows = self._sizes[-1]

    @property
    def drafts(self) -> bool:
        """Whether the next round drafts; if not, it is a plain one."""
        return self._pause == 0

    @property
    def acceptance(self) -> float:
        """The chance that the target accepts a token whose predecessors it has accepted."""
        accepted = sum(taken for _, taken in self._chains)
        refused = sum(taken < offered for offered, taken in self._chains)
        return (BELIEF[0] + accepted) / (BELIEF[1] + accepted + refused)

    def start(self) -> None:
        """A round begins."""
        self._mark, self._ahead = time.perf_counter(), 0.0

    def ran(self, seconds: float, tokens: int) -> None:
        """A round of the middle model took `seconds` and yielded `tokens`."""
        self._seen.append((seconds, tokens))

    def more(self, length: int) -> bool:
        """Whether a chain of `length` tokens is to be made longer."""
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
        self._passes.add(self._rows, seconds)
        if not offered:
            self._pause = max(self._pause - 1, 0)
            return
        self._chains.append((offered, accepted))
        self._rounds.append((1 + accepted, self._ahead, self._rows))
        if self._adaptive and len(self._rounds) >= ENOUGH:
            tokens = sum(count for count, *_ in self._rounds)
            whole = sum(ahead + self._passes.of(rows) for _, ahead, rows in self._rounds)
            slower = tokens * self._passes.of(self._sizes[0]) < whole
            self._patience = min(max(2 * self._patience, PATIENCE[0]), PATIENCE[1]) if slower else 0
            self._pause = self._patience

    def _size(self, nodes: int) -> int:
        return next(size for size in self._sizes if size >= nodes)
