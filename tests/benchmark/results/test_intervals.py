"""Intervals: as wide as samples differ, the same on every call, none for a single sample."""

from __future__ import annotations

import numpy as np
import pytest

from specdecodes.benchmark.results.intervals import mean_interval, ratio_interval, speedup_interval


def test_an_interval_of_means_is_about_two_standard_errors():
    values = np.random.default_rng(1).normal(10, 3, 400)
    low, high = mean_interval(list(values))
    error = values.std() / 20
    assert low == pytest.approx(values.mean() - 1.96 * error, abs=error / 5)
    assert high == pytest.approx(values.mean() + 1.96 * error, abs=error / 5)


def test_ratios_are_of_sums():
    assert ratio_interval([1, 100], [1, 50])[1] == pytest.approx(2)
    assert ratio_interval([3.0, 6.0, 9.0], [1.0, 2.0, 3.0]) == pytest.approx((3, 3))


def test_one_sample_has_no_interval():
    assert mean_interval([1.0]) is None
    assert speedup_interval([1.0], [1.0], [1.0], [1.0]) is None


def test_the_same_samples_give_the_same_interval():
    values = [1.0, 5.0, 2.0, 8.0]
    assert mean_interval(values) == mean_interval(values)


def test_pairing_removes_what_both_share():
    tokens, seconds = [10.0] * 8, [1.0, 9.0, 2.0, 7.0, 3.0, 8.0, 1.0, 6.0]
    low, high = speedup_interval(tokens, [s / 2 for s in seconds], tokens, seconds)
    assert (low, high) == pytest.approx((2, 2))
