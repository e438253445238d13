"""The demo model in GPTQ's format, converted, streamed, and drafted by its own weights in two bits, end to end."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.quantize_demo import ASSETS, main
from specdecodes import pipelines
from specdecodes.config import Draft, Memory, Pipeline, Tree
from specdecodes.errors import BudgetError
from specdecodes.methods import build, plan_for
from specdecodes.methods.weights.conversion import convert_checkpoint
from specdecodes.sampling import SamplingParams
from specdecodes.stats import Generation

PARAMS = SamplingParams(max_tokens=24, ignore_eos=True)


def quiet(text: str) -> None:
    pass


def answer(pipeline: Pipeline) -> Generation:
    with build(pipeline, progress=quiet) as generator:
        return generator.generate([{"role": "user", "content": "Tell me a story about a fox."}], PARAMS)


def streaming(pipeline: Pipeline) -> Pipeline:
    """`pipeline` on memory for half of its layers."""
    placement = plan_for(pipeline)
    layers = next(size for part, size in placement.device_bytes.items() if "resident layers" in part)
    for spare in range(1, 8):
        tight = Memory(sum(placement.device_bytes.values()) - layers * spare // 8, compress="off")
        with contextlib.suppress(BudgetError):
            if plan_for(replace(pipeline, memory=tight)).streamed:
                return replace(pipeline, memory=tight)
    raise AssertionError(f"nothing streams below {placement.device_bytes}")


@pytest.mark.usefixtures("untimed")
def test_from_the_demo_to_a_streamed_target_with_a_two_bit_draft(tmp_path: Path) -> None:
    made, converted = tmp_path / "demo-w4a16", tmp_path / "converted"
    main(ASSETS / "demo", made)
    convert_checkpoint(str(made), converted, "cpu", quiet)
    shipped = pipelines.load("run.exp_quantized.baseline_llama3_8b_w4a16")
    plain = replace(shipped, compile=False, exact=True, tree=Tree(2, 4, 8, adaptive=False), max_length=256)
    plain = replace(plain, target=replace(plain.target, model=str(made), device="cpu"))
    wanted = answer(plain)
    target = replace(plain.target, model=str(converted))
    drafted = streaming(replace(plain, method="subspec_sd", target=target, draft=Draft(quant="hqq2")))
    got = answer(drafted)
    assert got.tokens == wanted.tokens
    assert got.tau > 0.5 and sum(r.bytes_streamed for r in got.rounds) > 0
    assert answer(replace(drafted, method="vanilla", draft=Draft())).tokens == wanted.tokens
