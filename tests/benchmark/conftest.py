"""A generator without a model: its answers and clocks are arithmetic, so that every figure can be checked by hand."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest

from specdecodes.config import Pipeline, Target
from specdecodes.errors import ContextOverflowError
from specdecodes.generator import Chunk, Origin
from specdecodes.offload.planning.plan import Budgets, Placement
from specdecodes.offload.planning.predict import Prediction
from specdecodes.sampling import SamplingParams
from specdecodes.stats import Generation, Round


def generation(tokens: int = 4, accepted: int = 2, seconds: float = 2.0, reason: str = "stop") -> Generation:
    """`tokens` tokens: one by prefill (a quarter of the time), the others by rounds of `accepted` + 1."""
    size = accepted + 1
    rounds = tuple(
        Round(
            tokens=tuple(range(size)),
            proposed=4,
            accepted=accepted,
            proposed_by_depth=(2, 2),
            levels=2,
            seconds={"draft": 0.1, "target": 0.2},
            bytes_streamed=1000,
            read_seconds=0.25,
        )
        for _ in range((tokens - 1) // size)
    )
    return Generation(
        text=f"{tokens} tokens",
        tokens=tuple(range(tokens)),
        prompt_tokens=7,
        cached_tokens=0,
        rounds=rounds,
        prefill_seconds={"target": seconds / 4},
        total_seconds=seconds,
        time_to_first_token_s=seconds / 4,
        prefill_bytes=500,
        finish_reason=reason,
        prefill_read_seconds=0.25,
    )


def placement() -> Placement:
    """Two layers of a thousand bytes, one of them streamed."""
    predicted = Prediction(
        link_gbps=1.0,
        draft_step_s=0.1,
        levels=2,
        stream_s=0.2,
        compute_s=0.1,
        round_s=0.4,
        tokens_per_round=2.0,
        tokens_per_second=5.0,
        bound_tokens_per_second=10.0,
    )
    return Placement(
        resident=(0,),
        streamed=(1,),
        pinned=(),
        substituted=(1,),
        ring_slots=2,
        device_bytes={"layers": 1000, "ring": 2000},
        host_bytes={},
        bytes_per_pass=1000,
        predicted=predicted,
        device_name="RAM",
        budgets=Budgets(device=4000),
        storage="direct reads",
    )


@dataclass
class FakeGenerator:
    """Answers everything with `generation()`; prompts that hold `fails` overflow, and `stop_at` is Ctrl-C."""

    method: str = "vanilla"
    placement: Placement = field(default_factory=placement)
    fails: str = "\0"
    stop_at: int | None = None
    interrupt: bool = True  # Ctrl-C as an exception; else as a finish reason
    asked: list[tuple[list[str], bool]] = field(default_factory=list)

    @property
    def origin(self) -> Origin:
        return Origin(self.method, "fake", "bfloat16", "cpu", exact=True, kernel="")

    def stream(self, prompt: list[dict[str, str]], _: SamplingParams, *, reuse_cache: bool = False) -> Iterator[Chunk]:
        if self.stop_at == len(self.asked):
            if self.interrupt:
                raise KeyboardInterrupt
            yield Chunk("", (), None, generation(reason="interrupted"))
            return
        self.asked.append(([f"{m['role']}: {m['content']}" for m in prompt], reuse_cache))
        if self.fails in prompt[-1]["content"]:
            raise ContextOverflowError("the prompt does not fit.")
        answer = generation()
        yield Chunk("4", (0,), None)
        yield Chunk(" tokens", (1, 2, 3), answer.rounds[0])
        yield Chunk("", (), None, answer)


@pytest.fixture
def fake() -> Callable[..., FakeGenerator]:
    return FakeGenerator


@pytest.fixture
def answered() -> Callable[..., Generation]:
    return generation


@pytest.fixture
def pipeline() -> Pipeline:
    return Pipeline("vanilla", Target("fake"), warmup=0)
