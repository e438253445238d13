"""What runs of a setting add up to: the rounds to expect of the next one, and how far its answers may be from that.

Tokens and levels are means over all rounds of all runs kept: what a few questions show is luck, which averages out.
Seconds are the median run's: one beside a busy neighbour is outvoted.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from specdecodes.offload.planning.predict import Seen

USUAL = 0.25  # the spread of answers, before there were any
BELIEF = 3  # answers for which it counts


@dataclass(frozen=True)
class Run:
    """A run's rounds, their means (as in `Seen`), its answers and the spread of their speeds; `missed`: how far its
    speed was from what the runs before it had shown, as a logarithm (None: there were none)."""

    rounds: float
    levels: float
    tokens: float
    rest_s: float
    answers: float
    spread: float
    missed: float | None = None


def pooled(runs: Sequence[Run]) -> Seen:
    """What `runs`, one or more, show together."""
    rounds = sum(run.rounds for run in runs)
    return Seen(
        levels=sum(run.rounds * run.levels for run in runs) / rounds,
        tokens=sum(run.rounds * run.tokens for run in runs) / rounds,
        rest_s=statistics.median(run.rest_s for run in runs),
        spread=_spread(runs),
    )


def _spread(runs: Sequence[Run]) -> float:
    """Of the next answer's speed: how far answers of a run lie apart, and how far runs were from the ones before."""
    several = [run for run in runs if run.answers > 1]
    degrees = sum(run.answers - 1 for run in several)
    within = sum((run.answers - 1) * run.spread**2 for run in several)
    missed = [run.missed**2 for run in runs if run.missed is not None]
    between = statistics.mean(missed) if missed else 0.0
    return math.sqrt((BELIEF * USUAL**2 + within) / (BELIEF + degrees) + between)
