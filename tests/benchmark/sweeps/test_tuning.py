"""The cost model by arithmetic, and the module that holds what it chose."""

from __future__ import annotations

import random
import statistics
from dataclasses import replace

import pytest

from specdecodes.benchmark.sweeps.tuning import (
    Probe,
    contenders,
    fastest,
    module,
    receipt,
    shapes,
    shortlist,
    speed_up,
    tuned,
)
from specdecodes.config import Draft, Memory, Pipeline, Target, Tree
from specdecodes.pipelines import load
from specdecodes.sampling import SamplingParams

DEEP = Tree(4, 16, 64, adaptive=False)
SHALLOW = replace(DEEP, depth=4)
PLAIN = Probe("vanilla", DEEP, (0,) * 20, 0.1)


def draft(accepted, round_s=0.26):
    """A deep probe and a shallow one, of levels of 10 ms, beside which a round takes 100."""
    shallow = Probe("subspec_sd", SHALLOW, tuple(min(count, 4) for count in accepted), round_s - 0.12)
    return [shallow, Probe("subspec_sd", DEEP, tuple(accepted), round_s)]


def expected(accepted):
    (found,) = contenders(draft(accepted))
    return {candidate.tree.depth: candidate for candidate in found}


def test_a_deep_draft_tells_of_all_shallower_ones_and_two_of_what_a_level_costs():
    by_depth = expected((0, 4, 16))
    assert sorted(by_depth) == list(range(1, 17))
    assert by_depth[1].tokens_per_round == pytest.approx(1 + 2 / 3)
    assert by_depth[8].tokens_per_round == pytest.approx(1 + 12 / 3)
    assert by_depth[8].round_s == pytest.approx(0.18)
    assert by_depth[8].predicted == pytest.approx(5 / 0.18)


def simulated(depth, dice, *, rounds=4000):
    """Tokens accepted and seconds of rounds of `depth`: 3 ms a level, 40 beside them, and some luck in both."""
    accepted = [next((place for place in range(depth) if dice.random() > 0.9), depth) for _ in range(rounds)]
    return tuple(accepted), statistics.mean((0.04 + 0.003 * depth) * dice.uniform(0.8, 1.2) for _ in range(rounds))


def test_every_depth_takes_and_yields_what_the_probes_say():
    dice = random.Random(0)
    probes = [Probe("subspec_sd", tree, *simulated(tree.depth, dice)) for tree in (SHALLOW, DEEP)]
    for candidate in contenders(probes)[0]:
        accepted, seconds = simulated(candidate.tree.depth, dice)
        assert candidate.predicted == pytest.approx((1 + statistics.mean(accepted)) / seconds, rel=0.04)


def test_what_is_probed():
    wide, narrow = shapes("subspec_sd", DEEP, [1, 4], drafts=True, narrow=True), replace(DEEP, width=1)
    assert wide == [
        ("subspec_sd", replace(narrow, depth=4, nodes=5)),
        ("subspec_sd", replace(narrow, nodes=17)),
        ("subspec_sd", replace(DEEP, depth=4, nodes=17)),
        ("subspec_sd", DEEP),
    ]
    alike = shapes("subspec_sd", DEEP, [4], drafts=True, narrow=False)
    assert [tree for _, tree in alike] == [SHALLOW, DEEP]
    assert shapes("vanilla", DEEP, [1, 4], drafts=False, narrow=False) == [("vanilla", narrow)]
    (flat,) = {tree.depth for _, tree in shapes("subspec_sd", replace(DEEP, depth=1), [4], drafts=True, narrow=True)}
    assert flat == 1


def test_fewer_nodes_where_a_pass_may_be_narrow():
    probes = [Probe("subspec_sd", replace(SHALLOW, nodes=17), (4,), 0.1), Probe("subspec_sd", DEEP, (4,), 0.2)]
    narrow = {c.tree.depth: c.tree.nodes for c in contenders(probes)[0]}
    assert (narrow[2], narrow[4], narrow[16]) == (9, 17, 64)
    assert {c.tree.nodes for c in expected((4,)).values()} == {64}


def test_the_best_depth_wins_and_plain_decoding_where_drafts_fail():
    good = shortlist(contenders([PLAIN, *draft([8] * 10)]), 2)
    assert (good[0].method, good[0].tree.depth) == ("subspec_sd", 8)
    assert len(good) == 4 and {c.method for c in good} == {"vanilla", "subspec_sd"}
    assert fastest(shortlist(contenders([PLAIN, *draft([0] * 10)]), 2)).method == "vanilla"


def test_what_was_measured_decides():
    first, second, *rest = shortlist(contenders([PLAIN, *draft([8] * 10)]), 2)
    slower, faster = replace(first, measured=10.0), replace(second, measured=20.0)
    assert fastest([slower, faster, *rest]) is faster
    assert slower.error == pytest.approx(first.predicted / 10.0 - 1.0)


def test_speed_ups_are_over_plain_decoding_and_the_receipt_has_their_errors():
    draft_one, plain = shortlist(contenders([PLAIN, *draft([8] * 10)]), 0)
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
    best = tuned(pipeline, shortlist(contenders(draft([8] * 10)), 0)[0])
    assert (best.method, best.tree) == ("subspec_sd", Tree(4, 8, 64, adaptive=True))
    file = tmp_path / "tuned.py"
    file.write_text(module(best, "run-tune", "a machine"))
    assert load(str(file)) == best
