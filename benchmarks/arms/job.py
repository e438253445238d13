"""What an arm is asked and what it answers, as JSON: the arms run in processes, some in interpreters, of their own."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Job:
    """Answer every one of `prompts` with `tokens` tokens, greedily, no end token heeded; before the clock starts, the
    first of them with `warmup` tokens."""

    model: str  # a checkpoint folder, or a GGUF file
    prompts: tuple[tuple[int, ...], ...]
    tokens: int
    warmup: int
    penalty: float  # of tokens that prompt or answer hold, as Transformers defines it; 1: none
    budget: int | None  # bytes of weights, caches and working memory on the device; None: all that is free
    max_length: int
    threads: int
    scratch: str  # a folder on disk
    device: str = "cpu"
    draft_model: str | None = None
    options: dict[str, Any] = field(default_factory=dict)  # an arm's own

    @classmethod
    def read(cls) -> Job:
        """The job that this process was started with."""
        fields = json.loads(sys.argv[1])
        return cls(**fields | {"prompts": tuple(map(tuple, fields["prompts"]))})

    def written(self) -> str:
        """For an arm's command line."""
        return json.dumps(asdict(self))

    def requests(self) -> Iterator[tuple[tuple[int, ...], int, bool]]:
        """Prompt, tokens, and whether the answer counts."""
        yield self.prompts[0], self.warmup, False
        for prompt in self.prompts:
            yield prompt, self.tokens, True


class Answer:
    """Tokens of one answer and when they came."""

    def __init__(self) -> None:
        self._started = time.perf_counter()
        self._stamps: list[tuple[float, int]] = []
        self._tokens: list[int] = []

    def add(self, tokens: list[int]) -> None:
        """`tokens` came just now."""
        self._stamps.append((time.perf_counter() - self._started, len(tokens)))
        self._tokens += tokens

    def tell(self, **figures: float) -> None:
        """Hand the answer, and figures of the arm's own, to whoever started this process."""
        print(json.dumps({"tokens": self._tokens, "stamps": self._stamps, **figures}), flush=True)
