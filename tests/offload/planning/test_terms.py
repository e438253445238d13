"""Predicted beside measured: which term missed, and what that did to the speed."""

from __future__ import annotations

from dataclasses import replace

import pytest

from specdecodes.offload.planning.predict import Step, StepTimes, Workload, predict
from specdecodes.offload.planning.terms import compare
from specdecodes.offload.planning.work import Machine, Work

GB = 10**9
MACHINE = Machine(disk_gbps=1.0, round_seconds=0.1)
PLAIN = Workload(cache_rows=100, times=StepTimes(Step(0.0), Step(0.0)))
WORK = Work(draft_step_s=0.11, compute_s=0.5, disk_bytes=4 * GB, link_bytes=4 * GB, ahead_bytes=0)
DRAFTED = predict(WORK, MACHINE, replace(PLAIN, levels=10, acceptance=1.0, adaptive=False))


def summary(*, levels=10.0, step=0.11, target=0.5, wait=3.5, overhead=0.1, tokens=11.0, rounds=2):
    seconds = levels * step + target + wait + overhead
    phases = {"prefill": 9.0, "draft": levels * step, "target": target, "wait": wait, "overhead": overhead}
    return {
        "rounds": rounds,
        "draft_step_s": step,
        "draft_levels": levels * rounds,
        "tokens_per_round": tokens,
        "decode_tokens_per_second": tokens / seconds,
        "phase_seconds": {name: spent * rounds for name, spent in phases.items()},
    }


def effects(measured):
    return {line.term: line.effect for line in compare(DRAFTED, measured) if line.effect is not None}


def test_nothing_missed_where_all_came_as_expected():
    assert DRAFTED.round_s == pytest.approx(5.2)
    assert effects(summary()) == {term: pytest.approx(0.0) for term in TERMS}


TERMS = ("draft_levels_per_round", "draft_step_s", "pass_s", "wait_s", "overhead_s", "tokens_per_round")


@pytest.mark.parametrize(
    ("term", "change", "effect"),
    [
        ("tokens_per_round", {"tokens": 5.5}, 1.0),
        ("draft_step_s", {"step": 0.22}, 6.3 / 5.2 - 1),
        ("draft_levels_per_round", {"levels": 5.0}, 4.65 / 5.2 - 1),
        ("pass_s", {"target": 1.5}, 6.2 / 5.2 - 1),
        ("wait_s", {"wait": 0.0}, 1.7 / 5.2 - 1),
        ("overhead_s", {"overhead": 0.3}, 5.4 / 5.2 - 1),
    ],
)
def test_one_term_that_missed_accounts_for_the_whole_error(term, change, effect):
    measured = summary(**change)
    found = effects(measured)
    assert found[term] == pytest.approx(effect)
    assert all(other == pytest.approx(0.0, abs=1e-9) for name, other in found.items() if name != term)
    assert effect == pytest.approx(DRAFTED.tokens_per_second / measured["decode_tokens_per_second"] - 1.0)


def test_compare_puts_measured_beside_predicted():
    prediction = predict(WORK, MACHINE, PLAIN)
    measured = {
        "link_gbps": 0.5,
        "tokens_per_round": 1.0,
        "draft_step_s": 0.0,
        "bound_tokens_per_second": None,
        "rounds": 2,
        "phase_seconds": {"prefill": 9.0, "target": 6.0, "wait": 2.2},
    }
    lines = {line.term: line for line in compare(prediction, measured)}
    assert lines.keys() == {"link_gbps", "tokens_per_round", "pass_s", "wait_s", "overhead_s", "round_s"}
    assert lines["round_s"].measured == pytest.approx(4.1)
    assert lines["round_s"].ratio == pytest.approx(1.0)
    assert lines["link_gbps"].ratio == pytest.approx(0.5)
    assert lines["link_gbps"].predicted == pytest.approx(1.0)
