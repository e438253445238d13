"""A generator without a model: its answers and clocks are arithmetic, so that every figure can be checked by hand."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest

from specdecodes.config import Pipeline, Target
from specdecodes.errors import ContextOverflowError
from specdecodes.generator import Chunk
from specdecodes.offload.plan import Budgets, ModelShape, Placement, plan
from specdecodes.offload.predict import Machine, Workload
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
    shape = ModelShape(layer_bytes=(1000, 1000), embedding_bytes=500, head_bytes=500, kv_bytes_per_token=1)
    machine = Machine(disk_gbps=1.0, memory_gbps=10.0)
    return plan(shape, Budgets(device=1000 + 2 * 12288 + 600), machine, Workload(cache_rows=100, rows=1))


@dataclass
class FakeGenerator:
    """Answers everything with `generation()`; prompts that hold `fails` overflow, and `stop_at` is Ctrl-C."""

    method: str = "vanilla"
    model_name: str = "fake"
    exact: bool = True
    placement: Placement = field(default_factory=placement)
    fails: str = "\0"
    stop_at: int | None = None
    interrupt: bool = True  # Ctrl-C as an exception; else as a finish reason
    asked: list[tuple[list[str], bool]] = field(default_factory=list)

    def stream(self, prompt: list[dict[str, str]], _: SamplingParams, *, reuse_cache: bool = False) -> Iterator[Chunk]:
        if self.stop_at == len(self.asked):
            if self.interrupt:
                raise KeyboardInterrupt
            yield Chunk("", (), None, generation(reason="interrupted"))
            return
        self.asked.append(([f"{m['role']}: {m['content']}" for m in prompt], reuse_cache))
        if self.fails in prompt[-1]["content"]:
            raise ContextOverflowError("the prompt does not fit.")
        yield Chunk("4", (0,), None)
        yield Chunk(" tokens", (1, 2, 3), None)
        yield Chunk("", (), None, generation())


@pytest.fixture
def fake() -> Callable[..., FakeGenerator]:
    return FakeGenerator


@pytest.fixture
def answered() -> Callable[..., Generation]:
    return generation


@pytest.fixture
def pipeline() -> Pipeline:
    return Pipeline("vanilla", Target("fake"), warmup=0)
