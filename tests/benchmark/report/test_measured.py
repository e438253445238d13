"""What figures show adds up to what was measured."""

from __future__ import annotations

import pytest

from specdecodes.benchmark.report.measured import Measured, progress


@pytest.fixture
def measured(answered) -> Measured:
    samples = tuple((answered(tokens=40, accepted=accepted, seconds=20.0),) for accepted in (0, 2, 2, 4))
    return Measured("subspec_sd", samples)


def test_a_tokens_phases_add_up_to_one_over_the_speed(measured: Measured):
    assert sum(measured.token_seconds().values()) == pytest.approx(1 / measured.speed)


def test_accepted_shares_add_up_and_mean_tau(measured: Measured):
    shares = measured.accepted()
    assert sum(shares.values()) == pytest.approx(1)
    assert sum(number * share for number, share in shares.items()) == pytest.approx(measured.figures["tau"])
    assert shares[1] == shares[3] == 0


def test_speed_over_time_holds_every_token_and_every_second(measured: Measured):
    points = measured.over_time(10)
    step = measured.figures["wall_seconds"] / len(points)
    assert sum(rate * step for _, rate in points) == pytest.approx(progress(measured.answers)[1][-1])
    assert points[0][0] == pytest.approx(step / 2)


def test_progress_ends_with_the_clock_of_the_requests(measured: Measured):
    clock, tokens = progress(measured.answers)
    assert clock[-1] == pytest.approx(measured.figures["wall_seconds"])
    assert tokens[-1] == sum(1 + sum(len(r.tokens) for r in a.rounds) for a in measured.answers)


def test_a_few_rounds_make_no_curve(answered):
    assert Measured("vanilla", ((answered(),),)).over_time(10) == []
