"""Other bits, trees and contexts are planned whole; what a pipeline leaves open is chosen with the rest."""

from __future__ import annotations

from dataclasses import replace

import pytest

from specdecodes.config import Memory, Tree
from specdecodes.methods import build, choices, plan_for
from specdecodes.offload.planning.predict import Step, StepTimes
from specdecodes.sampling import SamplingParams
from tests.test_lossless import pipeline_for, smallest_budget

PARAMS = SamplingParams(max_tokens=12, ignore_eos=True)


@pytest.fixture
def pipeline(tiny_checkpoint, untimed):
    streamed = pipeline_for("subspec_sd", tiny_checkpoint("llama"), None, exact=True, streamed=True)
    return replace(streamed, tree=replace(streamed.tree, adaptive=True))


def test_every_setting_is_told_with_its_speed_or_with_why_not(pipeline, monkeypatch):
    monkeypatch.setattr(choices, "BITS", ("hqq8:g32", "hqq4:g32", "hqq2:g32"))
    told = {other.what: other for other in choices.others(pipeline, plan_for(pipeline))}
    assert {"--set draft.quant=hqq8:g32", "--set draft.quant=hqq2:g32", "--set max_length=128"} <= told.keys()
    assert {"--set tree.nodes=3", "--set tree.nodes=24", "--set tree.width=1", "--set tree.width=6"} <= told.keys()
    assert "--set draft.quant=hqq4:g32" not in told
    large = told["--set draft.quant=hqq8:g32"]
    assert large.tokens_per_second is None and "cannot work" in large.why
    few = told["--set draft.quant=hqq2:g32"]
    here = told["the settings as they are, by assumptions"]
    assert here.tokens_per_second == pytest.approx(plan_for(pipeline).predicted.tokens_per_second)
    assert few.tokens_per_second < here.tokens_per_second and few.why.startswith("slower: ")


def test_the_fastest_of_bits_and_trees_together_is_named(pipeline, monkeypatch):
    monkeypatch.setattr(choices, "BITS", ("hqq8:g32",))
    roomy = replace(pipeline, memory=Memory("4GiB"), tree=replace(pipeline.tree, width=2, depth=8))
    *_, last = choices.others(roomy, plan_for(roomy))
    assert last.why.startswith("the fastest") and last.what.startswith("--set draft.quant=hqq8:g32")
    settings = tuple(last.what.removeprefix("--set ").split(" --set "))
    assert choices.planned(roomy, settings, plan_for(roomy).times).speed == last.tokens_per_second


def test_plain_decoding_has_a_context_to_choose(pipeline):
    plain = replace(pipeline, method="vanilla", memory=Memory("4GiB"))
    told = [other.what for other in choices.others(plain, plan_for(plain))][1:]
    assert told == [f"--set max_length={length}" for length in (128, 512, 1024)]


def test_fewer_bits_draft_where_four_do_not_fit(pipeline, monkeypatch):
    monkeypatch.setattr("specdecodes.methods.subspec.FEWER", ("hqq2:g32",))
    monkeypatch.setattr("specdecodes.config.Draft.spelled", "hqq4:g32")
    least = smallest_budget(pipeline)
    opened = replace(pipeline, draft=replace(pipeline.draft, quant="auto"))
    assert plan_for(opened).draft_rules == "hqq4:g32"
    tight = replace(opened, memory=Memory(least - 1))
    placement = plan_for(tight)
    assert placement.draft_rules == "hqq2:g32"
    assert ("draft's bits", "hqq4:g32 does not fit", "hqq2:g32") in placement.notes
    with (
        build(tight, placement, progress=lambda text: None) as few,
        build(pipeline, progress=lambda text: None) as four,
    ):
        assert few.generate("once upon", PARAMS).tokens == four.generate("once upon", PARAMS).tokens


def test_steps_of_other_settings_are_scaled_from_those_that_were_timed(pipeline):
    step = Step(0.64, 0.064)
    times = StepTimes(step, step, Step(0.03), substitute=0.05, narrower=((1, 0.1), (4, 0.2)), one_lane=0.5)
    base = replace(pipeline, tree=Tree(4, 8, 64), draft=replace(pipeline.draft, quant="hqq4"))
    assert choices.scaled(times, base, base) == times
    half = choices.scaled(times, base, replace(base, tree=Tree(4, 8, 34)))
    assert half.streamed_pass.layer == pytest.approx(0.64 * 0.6)
    chain = choices.scaled(times, base, replace(base, tree=Tree(1, 8, 64), draft=replace(base.draft, quant="hqq8")))
    assert (chain.level.layer, chain.streamed_pass) == (pytest.approx(0.015), step)
    assert chain.substitute == pytest.approx(0.025 * 8.5 / 4.5)
