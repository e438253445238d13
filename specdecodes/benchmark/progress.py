"""Where a benchmark is while it runs: what a screen, a log or a program is told."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from specdecodes.benchmark.questions.samples import Sample
from specdecodes.generator import Chunk

ASKING, DONE, FAILED = "asking", "done", "failed"


@dataclass(frozen=True)
class Progress:
    """One sample as it is asked, then done or failed. Figures are this sample's, so far."""

    benchmark: str
    event: str  # asking, done or failed
    sample: str
    category: str
    number: int  # of `total`, samples finished by earlier runs included
    total: int
    turn: int
    new_tokens: int
    tokens_per_second: float  # new tokens / wall clock, prefill included
    tau: float
    seconds_left: float | None  # of the whole benchmark; None before a sample is done
    error: str | None = None

    def __str__(self) -> str:
        named = "" if self.sample == self.benchmark else f" {self.category} {self.sample}"  # a warm-up has no name
        label = f"{self.benchmark} [{self.number}/{self.total}]{named}"
        if self.event == FAILED:
            return f"{label}: FAILED, {self.error}"
        turn = f", turn {self.turn}" if self.event == ASKING else ""
        speed = f": {self.new_tokens} tokens, {self.tokens_per_second:.2f} tokens/s, tau {self.tau:.2f}"
        left = f", about {spoken(self.seconds_left)} left" if self.seconds_left and self.seconds_left >= 1 else ""
        return label + turn + (speed if self.new_tokens else "") + left


def spoken(seconds: float) -> str:
    """A duration as people say it."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


@dataclass
class Tally:
    """Counts samples and tokens against the clock. `finished` samples of `total` were there before."""

    benchmark: str
    finished: int
    total: int
    asked: int = 0  # by this run, the current sample included
    _started: float = field(default_factory=time.perf_counter)
    _sample: Sample | None = None
    _sample_started: float = 0.0
    _tokens: int = 0
    _accepted: int = 0
    _rounds: int = 0

    def begin(self, sample: Sample) -> Progress:
        """The next sample is asked."""
        self.asked += 1
        self._sample, self._sample_started = sample, time.perf_counter()
        self._tokens = self._accepted = self._rounds = 0
        return self.seen(ASKING, 1)

    def count(self, chunk: Chunk) -> None:
        """A piece of the current sample's answer arrived."""
        self._tokens += len(chunk.tokens)
        if chunk.round is not None:
            self._accepted += chunk.round.accepted
            self._rounds += 1

    def seen(self, event: str, turn: int, error: str | None = None) -> Progress:
        """Where the run is now."""
        assert self._sample is not None, "a sample begins before it is seen"
        now = time.perf_counter()
        seconds = now - self._sample_started
        return Progress(
            benchmark=self.benchmark,
            event=event,
            sample=self._sample.id,
            category=self._sample.category,
            number=self.finished + self.asked,
            total=self.total,
            turn=turn,
            new_tokens=self._tokens,
            tokens_per_second=self._tokens / seconds if seconds else 0.0,
            tau=self._accepted / self._rounds if self._rounds else 0.0,
            seconds_left=self._left(now, over=event != ASKING),
            error=error,
        )

    def _left(self, now: float, *, over: bool) -> float | None:
        """Samples to come at the mean pace of those asked so far; the current one counts until it is over."""
        ended = self.asked - (not over)
        if not ended:
            return None
        until = now if over else self._sample_started
        each = (until - self._started) / ended
        waiting = self.total - self.finished - self.asked
        current = 0.0 if over else max(0.0, each - (now - self._sample_started))
        return waiting * each + current
