"""The round's arithmetic, checked against sums done by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from specdecodes.offload.planning.predict import (
    Seen,
    Step,
    StepTimes,
    Workload,
    acceptance_of,
    doubtful,
    foresee,
    predict,
    share_of,
    tokens_per_round,
)
from specdecodes.offload.planning.work import Machine, Work

GB = 10**9
MACHINE = Machine(disk_gbps=1.0, round_seconds=0.1)
PLAIN = Workload(cache_rows=100, times=StepTimes(Step(0.0), Step(0.0)))
WORK = Work(draft_step_s=0.11, compute_s=0.5, disk_bytes=4 * GB, link_bytes=4 * GB, ahead_bytes=0)


def test_plain_streamed_decoding_costs_the_stream() -> None:
    prediction = predict(WORK, MACHINE, PLAIN)
    assert (prediction.levels, prediction.draft_step_s, prediction.tokens_per_round) == (0, 0.0, 1.0)
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
    workload = replace(PLAIN, levels=40, acceptance=0.8)
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


def test_a_level_costs_its_substitutes_and_what_has_none() -> None:
    times = StepTimes(Step(0.2, 0.1), Step(0.02, 0.01), Step(0.03, 0.005), substitute=0.01)
    assert times.draft_step(layers=10, substituted=10) == pytest.approx(0.105)
    assert times.draft_step(layers=10, substituted=4) == pytest.approx(0.04 + 0.18 + 0.005)
    assert replace(times, draft_model=0.07).draft_step(layers=10, substituted=0) == 0.07
    assert times.target_pass(layers=10, streamed=1) == pytest.approx(2.1)
    assert times.target_pass(layers=10, streamed=0) == pytest.approx(0.21)


def test_scaling_moves_drafts_and_passes_apart() -> None:
    times = StepTimes(Step(0.2, 0.1), Step(0.02, 0.01), Step(0.03, 0.005), substitute=0.01, draft_model=0.5)
    scaled = times.scaled(2.0, 0.5)
    assert scaled == StepTimes(Step(0.1, 0.05), Step(0.01, 0.005), Step(0.06, 0.01), substitute=0.02, draft_model=1.0)


def test_tokens_of_a_round_and_the_acceptance_that_gives_them() -> None:
    assert tokens_per_round(0.5, 3) == pytest.approx(1.875)
    assert tokens_per_round(1.0, 3) == 4.0
    assert tokens_per_round(0.7, 0) == 1.0
    for acceptance in (0.0, 0.3, 0.93):
        assert acceptance_of(tokens_per_round(acceptance, 6.5), 6.5) == pytest.approx(acceptance, abs=1e-6)
    assert acceptance_of(9.0, 8.0) == pytest.approx(1.0)


def test_rounds_that_were_seen_are_expected_again() -> None:
    seen = replace(PLAIN, levels=40, acceptance=0.8, seen=Seen(levels=6.5, tokens=9.0, rest_s=0.2))
    prediction = predict(WORK, MACHINE, seen)
    assert (prediction.levels, prediction.tokens_per_round) == (6.5, 9.0)
    assert prediction.round_s == pytest.approx(6.5 * 0.11 + 4.0 + 0.2)
    assert prediction.tokens_per_second == pytest.approx(9.0 / prediction.round_s)
    assert prediction.bound_tokens_per_second == pytest.approx(9.0 / 4)


def test_shares_lie_on_lines_between_those_that_are_known() -> None:
    known = ((1, 0.2), (8, 0.3))
    shares = [share_of(known, size, 64) for size in (1, 8, 36, 64)]
    assert shares == pytest.approx([0.2, 0.3, 0.65, 1.0])
    assert share_of(known, 4, 64) == pytest.approx(0.2 + 0.1 * 3 / 7)
    assert share_of((), 3, 64) == share_of(((1, 0.4),), 1, 1) == 1.0


def test_what_a_draft_missed_is_a_level_more_until_rounds_were_seen() -> None:
    workload = replace(PLAIN, levels=10, adaptive=False)
    before = predict(WORK, MACHINE, workload)
    behind = predict(WORK, MACHINE, replace(workload, catches_up=True))
    assert behind.levels * behind.draft_step_s == pytest.approx(11 * before.draft_step_s)
    assert behind.round_s == pytest.approx(before.round_s + before.draft_step_s)
    seen = replace(workload, catches_up=True, seen=Seen(levels=6.5, tokens=9.0, rest_s=0.2))
    assert predict(WORK, MACHINE, seen).draft_step_s == before.draft_step_s


def test_cores_restore_what_they_compute_with_and_a_device_while_further_blocks_are_copied() -> None:
    compressed = replace(WORK, disk_bytes=3 * GB, link_bytes=3 * GB, expand_s=0.4)
    fast = replace(MACHINE, disk_gbps=100.0)
    for threads, restoring in ((1, 0.4), (4, 0.1)):
        found = predict(compressed, replace(MACHINE, threads=threads), PLAIN)
        assert (found.stream_s, found.compute_s + found.wait_s) == (pytest.approx(3.0), pytest.approx(3.0))
        found = predict(compressed, replace(fast, threads=threads), PLAIN)
        assert (found.compute_s, found.wait_s) == (0.5, pytest.approx(restoring))
    on_device = replace(MACHINE, host_gbps=2.0)
    assert predict(compressed, on_device, PLAIN).stream_s == pytest.approx(3.0)
    assert predict(replace(compressed, expand_s=10.0), on_device, PLAIN).stream_s == pytest.approx(10.0)


def test_restoring_what_is_kept_is_no_time_of_the_link() -> None:
    kept = replace(WORK, disk_bytes=GB, link_bytes=GB, expand_s=3.0, kept_s=2.5)
    on_device = predict(kept, replace(MACHINE, host_gbps=2.0), PLAIN)
    assert on_device.stream_s == pytest.approx(3.0)
    assert on_device.link_gbps == pytest.approx(1.0)
    assert on_device.bound_tokens_per_second == pytest.approx(1.0), "by the link alone, whose second it is"
    by_cores = predict(kept, replace(MACHINE, threads=2), PLAIN)
    assert by_cores.wait_s == pytest.approx(1.5) and by_cores.stream_s == pytest.approx(1.0)
    whole = predict(replace(kept, disk_bytes=0, link_bytes=0, kept_s=3.0), MACHINE, PLAIN)
    assert (whole.link_gbps, whole.bound_tokens_per_second, whole.wait_s) == (0.0, None, pytest.approx(3.0))


def test_a_pass_waits_for_what_neither_drafting_nor_computing_hides() -> None:
    workload = replace(PLAIN, levels=10, adaptive=False)
    prediction = predict(replace(WORK, ahead_bytes=GB), MACHINE, workload)
    assert (prediction.wait_s, prediction.rest_s) == (pytest.approx(4.0 - 1.0 - 0.5), 0.1)
    parts = 10 * prediction.draft_step_s + prediction.compute_s + prediction.wait_s + prediction.rest_s
    assert prediction.round_s == pytest.approx(parts)
    assert predict(replace(WORK, compute_s=5.0), MACHINE, workload).wait_s == 0.0


def test_what_is_assumed_gives_a_range_and_what_was_seen_a_narrower_one() -> None:
    assert doubtful(0.9) == (pytest.approx(0.72), pytest.approx(0.9692, abs=1e-4))
    assert doubtful(0.3) == (pytest.approx(0.1091, abs=1e-4), pytest.approx(0.6))
    assert doubtful(1.0) == pytest.approx((1.0, 1.0))
    drafted = replace(PLAIN, levels=16, acceptance=0.9)
    assumed = foresee(WORK, MACHINE, drafted)
    assert assumed.tokens_per_second == predict(WORK, MACHINE, drafted).tokens_per_second
    worse = predict(WORK, MACHINE, replace(drafted, acceptance=0.72)).tokens_per_second
    assert assumed.low < worse < assumed.tokens_per_second < assumed.high
    seen = foresee(WORK, MACHINE, replace(drafted, seen=Seen(16.0, 9.0, 0.1, spread=0.1)))
    assert seen.high / seen.tokens_per_second == pytest.approx(seen.tokens_per_second / seen.low)
    assert seen.high / seen.low == pytest.approx(1.292, abs=1e-3)
    assert seen.speed == f"{seen.low:.2g} to {seen.high:.2g} tokens/s, most likely {seen.tokens_per_second:.3g}"
    fast = replace(seen, low=93.4, high=301.0, tokens_per_second=172.4)
    assert fast.speed == "93 to 301 tokens/s, most likely 172"
    assert predict(WORK, MACHINE, PLAIN).speed == "0.244 tokens/s"


def test_rounds_that_overlapped_more_than_is_thought_never_cost_less_than_their_work() -> None:
    overlapped = replace(PLAIN, levels=4, seen=Seen(4.0, 3.0, rest_s=-3.0))
    assert predict(WORK, MACHINE, overlapped).round_s == pytest.approx(4 * 0.11 + 4.0 - 3.0)
    resident = replace(WORK, disk_bytes=0, link_bytes=0)
    assert predict(resident, MACHINE, overlapped).round_s == pytest.approx(4 * 0.11 + 0.5)
