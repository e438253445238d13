"""The cost model by arithmetic, and the module that holds what it chose."""

from __future__ import annotations

from dataclasses import replace

import pytest

from specdecodes.benchmark.tuning import Probe, fastest, module, receipt, shortlist, speed_up, tuned
from specdecodes.config import Draft, Memory, Pipeline, Target, Tree
from specdecodes.pipelines import load
from specdecodes.sampling import SamplingParams

DEEP = Tree(4, 16, 64, adaptive=False)
PLAIN = Probe("vanilla", DEEP, (0,) * 20, 0.0, 0.1)


def draft(accepted, level=0.01, **changes):
    return replace(Probe("subspec_sd", DEEP, tuple(accepted), level, 0.1), **changes)


def test_a_deep_draft_tells_of_all_shallower_ones():
    by_depth = {c.tree.depth: c for c in draft((0, 4, 16)).candidates()}
    assert sorted(by_depth) == list(range(1, 17))
    assert by_depth[1].tokens_per_round == pytest.approx(1 + 2 / 3)
    assert by_depth[8].tokens_per_round == pytest.approx(1 + 12 / 3)
    assert by_depth[8].round_s == pytest.approx(0.18)
    assert by_depth[8].predicted == pytest.approx(5 / 0.18)


def test_fewer_nodes_cost_less_where_a_pass_may_be_narrow():
    narrow = {c.tree.depth: c for c in draft((4,), narrower=((1, 0.4),)).candidates()}
    assert (narrow[2].tree.nodes, narrow[16].tree.nodes) == (9, 64)
    assert narrow[2].round_s == pytest.approx(0.02 + 0.1 * (0.4 + 0.6 * 8 / 63))
    assert narrow[16].round_s == pytest.approx(0.16 + 0.1)
    assert {c.tree.nodes for c in draft((4,)).candidates()} == {64}


def test_the_best_depth_wins_and_plain_decoding_where_drafts_fail():
    good = shortlist([PLAIN, draft([8] * 10)], 2)
    assert (good[0].method, good[0].tree.depth) == ("subspec_sd", 8)
    assert len(good) == 4 and {c.method for c in good} == {"vanilla", "subspec_sd"}
    assert fastest(shortlist([PLAIN, draft([0] * 10)], 2)).method == "vanilla"


def test_what_was_measured_decides():
    first, second, *rest = shortlist([PLAIN, draft([8] * 10)], 2)
    slower, faster = replace(first, measured=10.0), replace(second, measured=20.0)
    assert fastest([slower, faster, *rest]) is faster
    assert slower.error == pytest.approx(first.predicted / 10.0 - 1.0)


def test_speed_ups_are_over_plain_decoding_and_the_receipt_has_their_errors():
    draft_one, plain = shortlist([PLAIN, draft([8] * 10)], 0)
    assert (draft_one.method, plain.predicted) == ("subspec_sd", pytest.approx(10.0))
    found = [replace(draft_one, measured=40.0), replace(plain, measured=8.0)]
    gain = speed_up(found[0], found)
    assert (gain.predicted, gain.measured) == (pytest.approx(5.0), 5.0)
    assert speed_up(draft_one, [draft_one]).predicted is None
    written = receipt([replace(found[0], measured=50.0), found[1]], found[1])
    assert written["mean_speed_up_error"] == written["largest_speed_up_error"] == pytest.approx(0.2)
    assert written["plain_wins"] and written["fastest"]["measured"] == 8.0
    assert len(written["candidates"]) == 2


def test_the_module_is_the_pipeline(tmp_path):
    pipeline = Pipeline(
        "vanilla",
        Target("a/model", dtype="bf16"),
        Draft(model="other", quant="hqq4:g128"),
        memory=Memory(device="8GiB"),
        sampling=SamplingParams(temperature=0.5, stop=("\n\n", "it's")),
        max_length=4096,
    )
    best = tuned(pipeline, shortlist([draft([8] * 10)], 0)[0])
    assert (best.method, best.tree) == ("subspec_sd", Tree(4, 8, 64, adaptive=True))
    file = tmp_path / "tuned.py"
    file.write_text(module(best, "run-tune", "a machine"))
    assert load(str(file)) == best
