"""How far a figure may move with other samples of the same kind: bootstrap intervals of ratios of sums."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 4000
LEVEL = 0.95

Interval = tuple[float, float]


def ratio_interval(parts: Sequence[float], wholes: Sequence[float]) -> Interval | None:
    """The 95% interval of sum(parts) / sum(wholes) over samples drawn again with replacement.

    None for fewer than two samples, which say nothing about how samples differ.
    """
    draws = _draws(len(parts))
    return None if draws is None else _central(draws @ np.asarray(parts) / (draws @ np.asarray(wholes)))


def mean_interval(values: Sequence[float]) -> Interval | None:
    """The 95% interval of the mean of `values`; None for fewer than two."""
    return ratio_interval(values, [1.0] * len(values))


def speedup_interval(
    tokens: Sequence[float], seconds: Sequence[float], base_tokens: Sequence[float], base_seconds: Sequence[float]
) -> Interval | None:
    """The 95% interval of (tokens / seconds) / (base tokens / base seconds), all ratios of sums over the same samples.

    Paired: each draw takes the same samples of both, so what makes a sample slow for both does not widen the interval.
    """
    draws = _draws(len(tokens))
    if draws is None:
        return None
    ours = draws @ np.asarray(tokens) / (draws @ np.asarray(seconds))
    return _central(ours / (draws @ np.asarray(base_tokens) / (draws @ np.asarray(base_seconds))))


def _draws(samples: int) -> NDArray[np.float64] | None:
    """How often each of RESAMPLES draws holds each sample [RESAMPLES, samples]; the same on every call."""
    if samples < 2:
        return None
    return np.random.default_rng(0).multinomial(samples, [1 / samples] * samples, RESAMPLES).astype(np.float64)


def _central(values: NDArray[np.float64]) -> Interval:
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)
