"""What is asked: a benchmark is a named set of samples; a sample is the user's turns of one conversation."""

from __future__ import annotations

import hashlib
import json
import random
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field

from specdecodes.errors import ConfigError


@dataclass(frozen=True)
class Sample:
    """One conversation: the user's turns, in order. The assistant's turns are what is measured."""

    id: str
    category: str
    turns: tuple[str, ...]
    reference: Mapping[str, str] = field(default_factory=dict)  # what its benchmark's scorer needs to know


@dataclass(frozen=True)
class Score:
    """The verdict on one answer."""

    correct: bool
    extracted: str  # what was taken for the answer; empty when the text holds none
    expected: str
    note: str = ""  # why it failed, where that is not plain from the two


Scorer = Callable[[Sample, str], Score | None]
"""The verdict on the last answer of a sample; None for a sample whose right answer is not known."""


@dataclass(frozen=True)
class Benchmark:
    """The samples of one benchmark; `source` says in words where they came from."""

    name: str
    source: str
    samples: tuple[Sample, ...]
    score: Scorer | None = None
    tasks: tuple[str, ...] = ()  # the categories that are reported one by one; none: all samples together
    runs_code: bool = False  # to score is to run what the model wrote

    @property
    def sha256(self) -> str:
        """Digest of the questions: equal digests are equal benchmarks, wherever they were read from."""
        return hashlib.sha256(json.dumps([asdict(s) for s in self.samples]).encode()).hexdigest()

    def check_scoring(self) -> None:
        """Score an empty answer, to raise before a run what scoring would raise in it, such as a missing package."""
        for sample in self.samples:
            if self.score is None or self.score(sample, "") is not None:
                return

    def select(self, seed: int, count: int | None = None) -> tuple[Sample, ...]:
        """The first `count` samples of a shuffle that depends on `seed` alone: every method gets the same ones.

        With `tasks` the shuffle deals one sample of each task in turn, so that a few samples already cover all.
        """
        if count is not None and count < 1:
            raise ConfigError(f"the number of samples must be 1 or more, not {count}.")
        shuffled = list(self.samples)
        random.Random(seed).shuffle(shuffled)
        if self.tasks:
            dealt: Counter[str] = Counter()
            turn: dict[str, int] = {}
            for sample in shuffled:
                turn[sample.id] = dealt[sample.category]
                dealt[sample.category] += 1
            shuffled.sort(key=lambda sample: (turn[sample.id], self.tasks.index(sample.category)))
        return tuple(shuffled[:count])
