"""What is asked: a benchmark is a named set of samples; a sample is the user's turns of one conversation."""

from __future__ import annotations

import hashlib
import json
import random
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from specdecodes.errors import ConfigError


@dataclass(frozen=True)
class Sample:
    """One conversation: the user's turns, in order. The assistant's turns are what is measured."""

    id: str
    category: str
    turns: tuple[str, ...]


@dataclass(frozen=True)
class Benchmark:
    """The samples of one benchmark; `source` says in words where they came from."""

    name: str
    source: str
    samples: tuple[Sample, ...]

    @property
    def sha256(self) -> str:
        """Digest of the questions: equal digests are equal benchmarks, wherever they were read from."""
        return hashlib.sha256(json.dumps([asdict(s) for s in self.samples]).encode()).hexdigest()

    def select(self, seed: int, count: int | None = None) -> tuple[Sample, ...]:
        """The first `count` samples of a shuffle that depends on `seed` alone: every method gets the same ones."""
        if count is not None and count < 1:
            raise ConfigError(f"the number of samples must be 1 or more, not {count}.")
        shuffled = list(self.samples)
        random.Random(seed).shuffle(shuffled)
        return tuple(shuffled[:count])


def read_questions(path: Path) -> tuple[Sample, ...]:
    """Samples of a file in MT-Bench's format: one JSON object a line with question_id, category and turns.

    Raises ConfigError naming the file and the line that cannot be used.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"the questions in {path} cannot be read: {error}.") from error
    samples = tuple(_question(line, f"{path}, line {n}") for n, line in enumerate(lines, 1) if line.strip())
    if not samples:
        raise ConfigError(f"{path} holds no questions.")
    if len({sample.id for sample in samples}) < len(samples):
        raise ConfigError(f"{path} uses a question_id more than once; results are kept by that name.")
    return samples


def _question(line: str, where: str) -> Sample:
    try:
        row: Any = json.loads(line)
        turns = row["turns"]
        sample = Sample(str(row["question_id"]), str(row.get("category", "")), tuple(turns))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"{where}: not a JSON object with question_id, category and turns.") from error
    if not isinstance(turns, list) or not turns or not all(isinstance(turn, str) and turn for turn in turns):
        raise ConfigError(f"{where}: turns must be a list of one or more texts.")
    return sample
