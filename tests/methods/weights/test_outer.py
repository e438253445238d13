"""The embedding lies where a plan has it, and answers do not depend on that."""

from __future__ import annotations

import gc
from dataclasses import replace
from typing import Any

import pytest

from specdecodes.methods import build, plan_for
from specdecodes.offload.planning.candidates import EMBEDDING, EMBEDDING_AND_HEAD, HEAD
from specdecodes.offload.planning.plan import Placement
from specdecodes.sampling import SamplingParams
from tests.offload.streaming.device import SimulatedCuda
from tests.test_lossless import pipeline_for

TABLE = 97 * 64 * 4
MESSAGES = [{"role": "user", "content": "w5 w9 w11"}]


def apart(plan: Placement) -> Placement:
    """As it would be beside an accelerator."""
    parts = dict(plan.device_bytes)
    parts[HEAD] = parts.pop(EMBEDDING_AND_HEAD) - TABLE
    return replace(plan, device_bytes=parts, host_bytes={EMBEDDING: TABLE})


def answer(pipeline: Any, plan: Placement, told: list[str]) -> tuple[list[int], Placement]:
    with build(pipeline, plan, progress=told.append) as generator:
        tokens = generator.generate(MESSAGES, SamplingParams(max_tokens=12, ignore_eos=True)).tokens
        return tokens, generator.placement


@pytest.mark.usefixtures("untimed")
@pytest.mark.parametrize("lockable", [TABLE, TABLE - 1])
def test_it_is_read_into_page_locked_memory_or_stays_on_the_device(tiny_checkpoint, monkeypatch, lockable):
    pipeline, told = pipeline_for("subspec_sd", tiny_checkpoint("llama"), None, exact=True), []
    plan = plan_for(pipeline)
    expected, _ = answer(pipeline, plan, [])
    with monkeypatch.context() as patch:
        cuda = SimulatedCuda(patch, lockable=lockable)
        register, locked = cuda._register, []
        patch.setattr(cuda, "_register", lambda at, size: locked.append(size) or register(at, size))
        tokens, found = answer(pipeline, apart(plan), told)
        gc.collect()
        assert not cuda.registered
        cuda.end()
    assert tokens == expected and locked == [TABLE]
    assert found.rows_from_host == (lockable == TABLE)
    assert any("refused to page-lock the embedding" in line for line in told) != found.rows_from_host
