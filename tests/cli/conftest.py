"""A generator that answers from a list, so that commands are tested without a model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import pytest

from specdecodes.errors import ContextOverflowError
from specdecodes.generator import Chunk
from specdecodes.sampling import SamplingParams
from specdecodes.stats import Generation, Round


@dataclass
class Parrot:
    """Says the words it was given, one a round; `interrupt` presses Ctrl-C after so many words."""

    answers: list[str]
    interrupt: int | None = None
    asked: list[object] = field(default_factory=list)
    reused: list[bool] = field(default_factory=list)
    method: str = "subspec_sd"
    model_name: str = "parrot"
    exact: bool = True
    placement: object = None

    def encode(self, prompt: Sequence[dict[str, str]]) -> list[int]:
        return list(range(len(prompt)))

    def stream(
        self,
        prompt: Sequence[dict[str, str]],
        params: SamplingParams,
        *,
        reuse_cache: bool = False,
        on_logits: object = None,
    ) -> Iterator[Chunk]:
        self.asked.append([dict(message) for message in prompt])
        self.reused.append(reuse_cache)
        text = self.answers.pop(0)
        if text == "overflow":
            raise ContextOverflowError("the prompt has 9 tokens and the context holds 8.")
        rounds = []
        for count, word in enumerate(text.split()):
            if self.interrupt == count:
                raise KeyboardInterrupt
            rounds.append(Round((count,), 3, 0, (3,), 1, {"draft": 0.1, "target": 0.1}, 1000))
            yield Chunk(f"{word} ", (count,), rounds[-1])
        tokens = tuple(range(len(rounds)))
        yield Chunk("", (), None, Generation(text, tokens, 7, 3, tuple(rounds), {"target": 0.1}, 1.0, 0.1, 0, "stop"))


@pytest.fixture
def parrot() -> Callable[..., Parrot]:
    return Parrot
