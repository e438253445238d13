"""Rounds that were run say what the next ones take: against rounds that are made up, so that the truth is known."""

from __future__ import annotations

import math
import random
import statistics
from dataclasses import replace

import pytest

from specdecodes.offload.planning.experience import BELIEF, USUAL, Run, pooled
from specdecodes.offload.planning.predict import Step, StepTimes, Workload, foresee
from specdecodes.offload.planning.work import Machine, Work

WORK = Work(draft_step_s=0.01, compute_s=0.05, disk_bytes=0, link_bytes=0, ahead_bytes=0)
RUN = Run(rounds=10, levels=8.0, tokens=4.0, rest_s=0.002, answers=4, spread=0.1)


def answer(dice: random.Random, rounds: int = 20) -> tuple[int, int, float]:
    """Of an answer on a text of its own difficulty: its tokens, draft levels and seconds."""
    acceptance, tokens, levels, seconds = dice.uniform(0.6, 0.95), 0, 0, 0.0
    for _ in range(rounds):
        depth = dice.randint(4, 12)
        accepted = next((place for place in range(depth) if dice.random() > acceptance), depth)
        tokens, levels = tokens + 1 + accepted, levels + depth
        seconds += (depth * WORK.draft_step_s + WORK.compute_s + 0.002) * dice.uniform(0.9, 1.1)
    return tokens, levels, seconds


def run_of(answers: list[tuple[int, int, float]]) -> Run:
    tokens, levels, seconds = (sum(column) for column in zip(*answers, strict=True))
    rounds = 20 * len(answers)
    rest = seconds / rounds - levels / rounds * WORK.draft_step_s - WORK.compute_s
    spread = statistics.stdev(math.log(count / spent) for count, _, spent in answers)
    return Run(rounds, levels / rounds, tokens / rounds, rest, len(answers), spread)


def test_what_twenty_answers_showed_the_next_ones_take() -> None:
    dice = random.Random(1)
    seen = pooled([run_of([answer(dice) for _ in range(10)]) for _ in range(2)])
    times = StepTimes(Step(0.0), Step(0.0))
    expected = foresee(WORK, Machine(1.0), Workload(100, times, levels=12, seen=seen))
    later = [answer(dice) for _ in range(200)]
    tokens, levels, seconds = (sum(column) for column in zip(*later, strict=True))
    assert expected.tokens_per_second == pytest.approx(tokens / seconds, rel=0.08)
    assert expected.levels == pytest.approx(levels / 4000, rel=0.02)
    inside = [expected.low <= count / spent <= expected.high for count, _, spent in later]
    assert 0.65 < statistics.mean(inside) < 0.95  # difficulties that are even, not normal


def test_runs_count_by_their_rounds_and_a_busy_neighbour_is_outvoted() -> None:
    short = replace(RUN, rounds=10, tokens=10.0, levels=16.0, rest_s=0.5)
    seen = pooled([replace(RUN, rounds=30), short, replace(RUN, rounds=60)])
    assert seen.tokens == pytest.approx((90 * 4.0 + 10 * 10.0) / 100)
    assert seen.levels == pytest.approx((90 * 8.0 + 10 * 16.0) / 100)
    assert seen.rest_s == 0.002


def test_the_spread_is_that_of_answers_and_of_past_predictions() -> None:
    usual = math.sqrt((BELIEF * USUAL**2 + 3 * 0.1**2) / (BELIEF + 3))
    assert pooled([RUN]).spread == pytest.approx(usual)
    assert pooled([replace(RUN, answers=1, spread=0.0)]).spread == USUAL
    many = replace(RUN, answers=10_000)
    assert pooled([many]).spread == pytest.approx(0.1, rel=0.01)
    missed = [many, replace(many, missed=0.3), replace(many, missed=-0.1)]
    assert pooled(missed).spread == pytest.approx(math.sqrt(0.01 + 0.05), rel=0.01)
