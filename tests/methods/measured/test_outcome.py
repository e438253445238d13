"""What a run showed is what the next plan of the same setting expects."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from specdecodes.config import Memory, Tree
from specdecodes.methods import build, learn, plan_for
from specdecodes.methods.measured import ledger, machine
from specdecodes.models.loading import open_checkpoint
from specdecodes.offload.planning.shape import ALONE, BESIDE, Compression
from tests.test_lossless import GREEDY, pipeline_for, smallest_budget


@pytest.fixture(autouse=True)
def own_ledger(tmp_path, monkeypatch):
    monkeypatch.setenv("SPECDECODES_CACHE", str(tmp_path))


def summary(placement, **changes):
    """A run that went twice as slow as planned, with 3 tokens a round at 4 levels."""
    predicted = placement.predicted
    return {
        "rounds": 20,
        "samples": 3,
        "new_tokens": 60,
        "speed_spread": 0.2,
        "tokens_per_round": 3.0 if predicted.levels else 1.0,
        "draft_levels": 4 * 20 if predicted.levels else 0,
        "draft_step_s": 2 * predicted.draft_step_s,
        "phase_seconds": {
            "prefill": 9.0,
            "draft": 80 * 2 * predicted.draft_step_s,
            "target": 20 * 2 * predicted.compute_s,
            "overhead": 20 * 1e-5,
        },
        "link_gbps": 3.25 if placement.streamed else 0.0,
    } | changes


@pytest.mark.parametrize("method", ["vanilla", "subspec_sd", "classic_sd"])
def test_the_next_plan_expects_what_the_last_run_showed(method, tiny_checkpoint):
    folder = tiny_checkpoint("llama")
    pipeline = replace(pipeline_for(method, folder, folder, exact=True), tree=Tree(3, 4, 12, adaptive=False))
    before = plan_for(pipeline)
    learn(pipeline, before, summary(before))
    after = plan_for(pipeline)
    assert after.predicted.compute_s == pytest.approx(2 * before.predicted.compute_s)
    assert after.predicted.draft_step_s == pytest.approx(2 * before.predicted.draft_step_s)
    assert any("measured in the last runs" in where and "60 tokens" in where for _, where, _ in after.notes)
    if method != "vanilla":
        assert (after.predicted.tokens_per_round, after.predicted.levels) == (3.0, 4.0)
    steps = 4 * before.predicted.draft_step_s + before.predicted.compute_s
    assert after.predicted.round_s == pytest.approx(2 * steps + 1e-5)
    learn(pipeline, after, summary(after, tokens_per_round=7.0, rounds=60))
    basis = plan_for(pipeline).basis
    assert basis is not None and basis[2].seen is not None
    assert basis[2].seen.tokens == pytest.approx((20 * after.predicted.tokens_per_round + 60 * 7.0) / 80)
    assert basis[2].seen.spread > 0.2  # the second run was missed
    other = replace(pipeline, tree=replace(pipeline.tree, width=2))
    assert not any("last runs" in where for _, where, _ in plan_for(other).notes)


def test_the_next_process_knows_what_a_draft_is_worth(tiny_checkpoint):
    """And another tree, which is another setting, does not."""
    folder = tiny_checkpoint("llama")
    pipeline = replace(pipeline_for("subspec_sd", folder, folder, exact=True), tree=Tree(3, 4, 12))
    with build(pipeline, progress=lambda text: None) as generator:
        fresh = dict(generator.habits)
        generator.generate([5, 6, 7], replace(GREEDY, max_tokens=12))
        taught = dict(generator.habits)
        learn(pipeline, generator.placement, summary(generator.placement), taught)
    with build(pipeline, progress=lambda text: None) as generator:
        assert generator.habits == taught != fresh
    other = replace(pipeline, tree=replace(pipeline.tree, depth=3))
    with build(other, progress=lambda text: None) as generator:
        assert generator.habits == fresh


def test_what_a_narrow_pass_takes_is_kept_too(tiny_checkpoint):
    pipeline = replace(pipeline_for("ngram_sd", tiny_checkpoint("llama"), None, exact=False), tree=Tree(3, 4, 12))
    before = plan_for(pipeline)
    assert [rows for rows, _ in before.times.narrower] == [1, 8]
    learn(pipeline, before, summary(before, draft_levels=0, tokens_per_round=1.5))
    after = plan_for(pipeline)
    assert after.times.narrower == before.times.narrower
    assert (after.predicted.levels, after.predicted.tokens_per_round) == (0.0, 1.5)
    assert any(row[1].startswith("1.5 tokens a round") for row in after.rows())


def test_a_stream_is_expected_to_be_as_fast_as_it_was(tiny_checkpoint):
    pipeline = pipeline_for("vanilla", tiny_checkpoint("llama"), None, exact=True)
    streamed = replace(pipeline, memory=Memory(smallest_budget(pipeline)))
    before = plan_for(streamed)
    assert before.predicted.link_gbps != pytest.approx(3.25)
    learn(streamed, before, summary(before))
    assert plan_for(streamed).predicted.link_gbps == pytest.approx(3.25)
    assert plan_for(replace(streamed, seed=1, warmup=0)).predicted.link_gbps == pytest.approx(3.25)
    another = pipeline_for("vanilla", tiny_checkpoint("qwen2"), None, exact=True)  # whose layers have another size
    elsewhere = plan_for(replace(another, memory=Memory(smallest_budget(another))))
    assert elsewhere.predicted.link_gbps not in (0.0, pytest.approx(3.25))


def test_compressed_files_are_read_at_a_speed_of_their_own(tiny_checkpoint):
    pipeline = pipeline_for("vanilla", tiny_checkpoint("llama"), None, exact=True)
    streamed = replace(pipeline, memory=Memory(smallest_budget(pipeline)))
    files = open_checkpoint(pipeline.target.model).files
    before = plan_for(streamed)
    for kind in (ALONE, BESIDE):
        compressed = replace(
            before,
            compression=Compression((1,), 10.0, "BMI2", True, 0, kind=kind),
            whole_bytes=2 * before.bytes_per_pass,
        )
        assert machine.streamed_before(machine.compressed_tier(kind), files) is None
        learn(streamed, compressed, summary(before))
        assert machine.streamed_before(machine.compressed_tier(kind), files) == pytest.approx(3.25)
    assert machine.streamed_before("disk", files) is None
    as_it_is = replace(compressed, whole_bytes=before.bytes_per_pass)  # beside layers that are kept
    learn(streamed, as_it_is, summary(before))
    assert machine.streamed_before("disk", files) == pytest.approx(3.25)


def test_rounds_that_restore_what_no_link_brings_are_explained(tiny_checkpoint):
    """What is left unexplained of a round is what it would be without compression: nothing here."""
    pipeline = pipeline_for("vanilla", tiny_checkpoint("llama"), None, exact=True)
    streamed = replace(pipeline, memory=Memory(smallest_budget(pipeline)))
    before = plan_for(streamed)
    work, on_cpu, workload = before.basis
    nothing_links = replace(work, disk_bytes=0, link_bytes=0, expand_s=2.0, kept_s=2.0)
    kept = replace(before, kept=before.streamed, basis=(nothing_links, on_cpu, workload))
    compute = before.predicted.compute_s
    phases = {"prefill": 9.0, "draft": 0.0, "wait": 20 * 2.0 / on_cpu.threads, "target": 20 * compute, "overhead": 0.0}
    learn(streamed, kept, summary(before, link_gbps=0.0, phase_seconds=phases))
    seen = plan_for(streamed).basis[2].seen
    assert seen.rest_s == pytest.approx(0.0, abs=1e-9)
    assert machine.streamed_before("disk", open_checkpoint(pipeline.target.model).files) is None


def test_a_run_too_short_to_say_something_is_forgotten(tiny_checkpoint):
    pipeline = pipeline_for("vanilla", tiny_checkpoint("llama"), None, exact=True)
    before = plan_for(pipeline)
    learn(pipeline, before, summary(before, new_tokens=5))
    learn(pipeline, before, {"failed": {"1": "no answer at all"}})
    assert plan_for(pipeline).predicted == before.predicted


def test_a_placement_given_to_build_is_used_as_it_is(tiny_checkpoint):
    pipeline = pipeline_for("subspec_sd", tiny_checkpoint("llama"), None, exact=True)
    shown = plan_for(replace(pipeline, memory=Memory(smallest_budget(pipeline))))
    with build(pipeline, shown, progress=lambda text: None) as generator:
        assert generator.placement is shown
        assert generator.origin.kernel == shown.kernel != ""


def test_a_broken_or_forbidden_ledger_is_an_empty_one(tmp_path, monkeypatch):
    ledger.keep("a", {"x": 1.0})
    assert ledger.recall("a", ("x",)) is not None
    assert ledger.recall("a", ("x", "y")) is None
    assert ledger.recall("a", ("x",), max_age=-1.0) is None
    (tmp_path / "measured.json").write_text("{cut")
    assert ledger.recall("a", ("x",)) is None
    ledger.keep("b", {"x": 2.0})
    assert ledger.recall("b", ("x",)) is not None
    monkeypatch.setenv("SPECDECODES_CACHE", str(tmp_path / "measured.json"))  # a file, not a folder
    ledger.keep("c", {"x": 3.0})
    assert ledger.recall("c", ("x",)) is None


def test_one_run_beside_a_busy_neighbour_is_outvoted():
    for seconds in (1.0, 1.1, 9.0):
        ledger.keep("d", {"x": seconds, "none": 0.0})
    assert ledger.recall("d", ("x", "none")) == {"x": pytest.approx(1.1 * math.sqrt(ledger.NOW)), "none": 0.0}
    for _ in range(ledger.LATEST):
        ledger.keep("d", {"x": 2.0})
    assert ledger.recall("d", ("x",)) == {"x": 2.0}
    assert [kept["x"] for kept in ledger.every("d", ("x",))][:3] == [1.0, 1.1, 9.0]


def test_a_machine_that_got_slower_is_followed_half_way():
    for seconds in (1.0, 1.0, 1.2):
        ledger.keep("d", {"x": seconds})
    assert ledger.recall("d", ("x",)) == {"x": pytest.approx(math.sqrt(1.2))}
