"""The round's arithmetic, checked against sums done by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from specdecodes.offload.predict import Machine, Work, Workload, compare, predict

GB = 10**9
MACHINE = Machine(disk_gbps=1.0, memory_gbps=10.0, level_seconds=0.01, round_seconds=0.1, flops=1e12)
PLAIN = Workload(cache_rows=100)
WORK = Work(draft_bytes=GB, disk_bytes=4 * GB, link_bytes=4 * GB, ahead_bytes=0, pass_bytes=5 * GB, pass_flops=1e11)


def test_plain_streamed_decoding_costs_the_stream() -> None:
    prediction = predict(WORK, MACHINE, PLAIN)
    assert (prediction.levels, prediction.draft_s, prediction.tokens_per_round) == (0, 0.0, 1.0)
    assert prediction.stream_s == pytest.approx(4.0)
    assert prediction.compute_s == pytest.approx(0.5)
    assert prediction.round_s == pytest.approx(4.1)
    assert prediction.tokens_per_second == pytest.approx(1 / 4.1)
    assert prediction.bound_tokens_per_second == pytest.approx(1 / 4)
    assert prediction.link_gbps == pytest.approx(1.0)


def test_a_resident_model_costs_its_compute_and_has_no_bound() -> None:
    resident = replace(WORK, disk_bytes=0, link_bytes=0)
    prediction = predict(resident, MACHINE, PLAIN)
    assert prediction.round_s == pytest.approx(0.6)
    assert (prediction.bound_tokens_per_second, prediction.link_gbps) == (None, 0.0)
    slow = predict(resident, replace(MACHINE, flops=1e11), PLAIN)
    assert slow.round_s == pytest.approx(1.1)


def test_fixed_depth() -> None:
    prediction = predict(WORK, MACHINE, replace(PLAIN, levels=3, acceptance=0.5, adaptive=False))
    assert prediction.draft_step_s == pytest.approx(0.11)
    assert prediction.tokens_per_round == pytest.approx(1 + 0.5 + 0.25 + 0.125)
    assert prediction.round_s == pytest.approx(0.33 + 4.0 + 0.1)


def test_bytes_that_arrive_while_drafting_are_not_waited_for() -> None:
    workload = replace(PLAIN, levels=10, adaptive=False)
    roomy = predict(replace(WORK, ahead_bytes=3 * GB), MACHINE, workload)
    assert roomy.round_s == pytest.approx(1.1 + (4.0 - 1.1) + 0.1)
    small = predict(replace(WORK, ahead_bytes=GB // 2), MACHINE, workload)
    assert small.round_s == pytest.approx(1.1 + 3.5 + 0.1)


def test_adaptive_depth_is_the_best_of_all_depths() -> None:
    workload = Workload(cache_rows=1, levels=40, acceptance=0.8)
    fixed = [predict(WORK, MACHINE, replace(workload, levels=depth, adaptive=False)) for depth in range(1, 41)]
    best = predict(WORK, MACHINE, workload)
    assert best.tokens_per_second == max(prediction.tokens_per_second for prediction in fixed)
    assert 1 < best.levels < 40


def test_the_slower_of_disk_and_accelerator_link_sets_the_pace() -> None:
    accelerated = replace(MACHINE, host_gbps=8.0)
    assert predict(WORK, accelerated, PLAIN).stream_s == pytest.approx(4.0)
    mostly_pinned = replace(WORK, disk_bytes=GB // 10)
    assert predict(mostly_pinned, accelerated, PLAIN).stream_s == pytest.approx(0.5)
    assert predict(mostly_pinned, accelerated, PLAIN).link_gbps == pytest.approx(8.0)


def test_compare_puts_measured_beside_predicted() -> None:
    prediction = predict(WORK, MACHINE, PLAIN)
    summary = {"link_gbps": 0.5, "tokens_per_round": 1.0, "draft_step_s": 0.0, "bound_tokens_per_second": None}
    lines = {line.term: line for line in compare(prediction, summary)}
    assert lines.keys() == {"link_gbps", "tokens_per_round"}
    assert lines["link_gbps"].ratio == pytest.approx(0.5)
    assert lines["link_gbps"].predicted == pytest.approx(1.0)
