"""Which method, width and depth decode fastest here: a cost model of rounds, fed by a few deep ones that were measured.

    tokens/s = (1 + mean accepted up to the depth) / (depth * draft level + rest of the round)

A deep draft tells of all shallower ones: of `a` accepted tokens, a draft of depth d would have had min(a, d). A pass of
fewer rows takes the share of the measured one that timing such passes gave.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pprint import pformat
from typing import TYPE_CHECKING, Any

from specdecodes.config import Pipeline, Tree
from specdecodes.offload.predict import share_of
from specdecodes.stats import Generation, Round

if TYPE_CHECKING:
    from specdecodes.offload.plan import Placement

SETTLING = 2
"""Rounds of an answer that are not believed: caches are cold. Nor is the last, which the answer's end cuts short."""

PLAIN = "vanilla"


@dataclass(frozen=True)
class Contender:
    """A way to decode, and what the cost model expects of it; `measured` is its decode tokens/s when it was run."""

    method: str
    tree: Tree
    tokens_per_round: float
    round_s: float
    measured: float | None = None

    @property
    def predicted(self) -> float:
        """Decode tokens/s."""
        return self.tokens_per_round / self.round_s

    @property
    def error(self) -> float | None:
        """Predicted over measured, less one."""
        return None if self.measured is None else self.predicted / self.measured - 1.0


@dataclass(frozen=True)
class Probe:
    """What rounds of `method` with a tree of fixed shape showed: tokens `accepted` in each, the mean seconds of a draft
    level (0: no draft model) and of the rest, and the shares of the rest that `narrower` passes take (rows, share)."""

    method: str
    tree: Tree
    accepted: tuple[int, ...]
    level_s: float
    rest_s: float
    narrower: tuple[tuple[int, float], ...] = ()

    @classmethod
    def of(cls, pipeline: Pipeline, placement: Placement, exact: bool, answers: Iterable[Generation]) -> Probe:
        """From what a pipeline with `tree.adaptive` off answered."""
        rounds = steady(answers)
        levels = sum(r.levels for r in rounds)
        return cls(
            pipeline.method,
            pipeline.tree,
            tuple(r.accepted for r in rounds),
            sum(r.seconds["draft"] for r in rounds) / levels if levels else 0.0,
            statistics.mean(_rest(r) for r in rounds),
            () if exact or placement.streamed else placement.times.narrower,
        )

    def candidates(self) -> list[Contender]:
        """At every depth up to the probe's; a method without a draft model has no depth to choose."""
        depths = range(1, self.tree.depth + 1) if self.level_s else (self.tree.depth,)
        return [self._at(depth) for depth in depths]

    def _at(self, depth: int) -> Contender:
        nodes = self.tree.nodes
        if self.narrower and self.level_s:  # a pass of fewer rows costs less
            nodes = min(nodes, self.tree.width * depth + 1)
        return Contender(
            self.method,
            replace(self.tree, depth=depth, nodes=nodes),
            1.0 + statistics.mean(min(accepted, depth) for accepted in self.accepted),
            depth * self.level_s + self.rest_s * share_of(self.narrower, nodes, self.tree.nodes),
        )


def steady(answers: Iterable[Generation]) -> list[Round]:
    """The rounds of `answers` to measure by."""
    return [r for answer in answers for r in answer.rounds[SETTLING:-1] or answer.rounds]


def shortlist(probes: Sequence[Probe], count: int) -> list[Contender]:
    """The best of every probe, then the best of the rest that differ by a good part in depth; `count` or fewer more."""
    groups = [sorted(probe.candidates(), key=lambda c: -c.predicted) for probe in probes]
    chosen = [group[0] for group in groups]
    others = sorted((c for group in groups for c in group[1:]), key=lambda c: -c.predicted)
    for candidate in others:
        if len(chosen) >= len(probes) + count:
            break
        if all(_apart(candidate, known) for known in chosen):
            chosen.append(candidate)
    return sorted(chosen, key=lambda c: -c.predicted)


def fastest(candidates: Sequence[Contender]) -> Contender:
    """By what was measured where that was done, else as expected."""
    measured = [candidate for candidate in candidates if candidate.measured is not None]
    return max(measured or candidates, key=lambda c: c.measured or c.predicted)


@dataclass(frozen=True)
class SpeedUp:
    """Over plain decoding, as predicted and as measured; None where plain decoding, or this, was not."""

    predicted: float | None
    measured: float | None

    @property
    def error(self) -> float | None:
        """Predicted over measured, less one."""
        return self.predicted / self.measured - 1.0 if self.predicted and self.measured else None


def speed_up(candidate: Contender, candidates: Sequence[Contender]) -> SpeedUp:
    """Of `candidate` over the plain decoding among `candidates`."""
    plain = next((one for one in candidates if one.method == PLAIN), None)
    if plain is None:
        return SpeedUp(None, None)
    measured = candidate.measured / plain.measured if candidate.measured and plain.measured else None
    return SpeedUp(candidate.predicted / plain.predicted, measured)


def receipt(candidates: Sequence[Contender], winner: Contender) -> dict[str, Any]:
    """All candidates with both speeds and both speed-ups, the mean size of the errors, and the winner, as plain
    data."""
    rows = [
        asdict(one) | {"predicted": one.predicted, "error": one.error, "speed_up": _data(speed_up(one, candidates))}
        for one in candidates
    ]
    errors = [abs(row["speed_up"]["error"]) for row in rows if row["speed_up"]["error"] and row["method"] != PLAIN]
    return {
        "candidates": rows,
        "mean_speed_up_error": statistics.mean(errors) if errors else None,
        "largest_speed_up_error": max(errors, default=None),
        "fastest": rows[list(candidates).index(winner)],
        "plain_wins": winner.method == PLAIN,
    }


def tuned(pipeline: Pipeline, winner: Contender) -> Pipeline:
    """`pipeline` decoding as `winner` does, but stopping earlier where a round asks for it."""
    return replace(pipeline, method=winner.method, tree=replace(winner.tree, adaptive=True))


def module(pipeline: Pipeline, command: str, machine: str) -> str:
    """The text of a pipeline module that holds `pipeline` whole."""
    value = pformat(pipeline, width=112, sort_dicts=False)
    return (
        f'"""The fastest of what run-tune tried on {machine}.\n\n    {command}\n"""\n\n'
        "from specdecodes.config import Draft, Memory, Middle, Pipeline, Target, Tree\n"
        "from specdecodes.sampling import SamplingParams\n\n"
        f"pipeline = {value}\n"
    )


def _data(one: SpeedUp) -> Mapping[str, float | None]:
    return asdict(one) | {"error": one.error}


def _apart(candidate: Contender, other: Contender) -> bool:
    same = (candidate.method, candidate.tree.width) == (other.method, other.tree.width)
    return not same or not 2 / 3 < candidate.tree.depth / other.tree.depth < 3 / 2


def _rest(turn: Round) -> float:
    """Without a draft model what drafting takes belongs here."""
    return sum(seconds for phase, seconds in turn.seconds.items() if phase != "draft" or not turn.levels)
