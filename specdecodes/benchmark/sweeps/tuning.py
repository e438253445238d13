"""Which method, width and depth decode fastest here: a cost model of rounds, fed by a few that were measured.

    tokens/s = (1 + mean accepted up to the depth) / seconds of a round of that depth

Every method and width is probed with a deep draft and with a shallow one. The deep one tells of all shallower ones:
of `a` accepted tokens, a draft of depth d would have had min(a, d). A round's seconds lie on the line through both
probes: so what a further level costs is told from what a round costs beside its levels.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import groupby
from pprint import pformat
from typing import Any

from specdecodes.config import Pipeline, Tree
from specdecodes.stats import Generation, Round

SETTLING = 2
"""Rounds of an answer that are not believed: caches are cold. Nor is the last, which the answer's end cuts short."""

PLAIN = "vanilla"

SHALLOW = 4
"""The shallow probe of a draft has so much less depth than the deep one."""


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
    """What rounds of `method` with a tree of fixed shape showed: tokens `accepted` in each, and their mean seconds."""

    method: str
    tree: Tree
    accepted: tuple[int, ...]
    round_s: float

    @classmethod
    def of(cls, method: str, tree: Tree, answers: Iterable[Generation]) -> Probe:
        """From what a pipeline with `tree.adaptive` off answered."""
        rounds = steady(answers)
        spent = statistics.mean(sum(r.seconds.values()) for r in rounds)
        return cls(method, tree, tuple(r.accepted for r in rounds), spent)

    def tokens(self, depth: int) -> float:
        """Of a round, had the draft ended at `depth`."""
        return 1.0 + statistics.mean(min(accepted, depth) for accepted in self.accepted)


def shapes(method: str, tree: Tree, widths: Sequence[int], *, drafts: bool, narrow: bool) -> list[tuple[str, Tree]]:
    """What to probe of a method, with `tree` as the largest; one that no model `drafts` for has no width or depth.
    `narrow`: a smaller tree's pass has fewer rows (in exact mode all passes have one width)."""
    if not drafts:
        return [(method, replace(tree, width=min(widths), adaptive=False))]
    depths = sorted({tree.depth, max(1, tree.depth // SHALLOW)})
    fixed = [replace(tree, width=width, adaptive=False) for width in widths]
    return [(method, cut(one, depth, narrow=narrow)) for one in fixed for depth in depths]


def cut(tree: Tree, depth: int, *, narrow: bool) -> Tree:
    """The tree at that depth; if its pass may be `narrow`, with no more nodes than its levels have."""
    return replace(tree, depth=depth, nodes=min(tree.nodes, tree.width * depth + 1) if narrow else tree.nodes)


def contenders(probes: Sequence[Probe]) -> list[list[Contender]]:
    """At every depth up to the deepest probe's, those of one method and width together."""

    def kind(probe: Probe) -> tuple[str, int]:
        return probe.method, probe.tree.width

    groups = [sorted(group, key=lambda probe: probe.tree.depth) for _, group in groupby(probes, kind)]
    return [_on_the_line(group[0], group[-1]) for group in groups]


def _on_the_line(shallow: Probe, deep: Probe) -> list[Contender]:
    if shallow is deep:
        return [Contender(deep.method, deep.tree, deep.tokens(deep.tree.depth), deep.round_s)]
    first, last = shallow.tree.depth, deep.tree.depth
    level, narrow = max(0.0, (deep.round_s - shallow.round_s) / (last - first)), shallow.tree.nodes < deep.tree.nodes
    return [
        Contender(
            deep.method,
            cut(deep.tree, depth, narrow=narrow),
            (shallow if depth <= first else deep).tokens(depth),
            max(shallow.round_s + level * (depth - first), level * depth),
        )
        for depth in range(1, last + 1)
    ]


def steady(answers: Iterable[Generation]) -> list[Round]:
    """The rounds of `answers` to measure by."""
    return [r for answer in answers for r in answer.rounds[SETTLING:-1] or answer.rounds]


def shortlist(groups: Sequence[Sequence[Contender]], count: int) -> list[Contender]:
    """The best of every group, then the best of the rest that differ by a good part in depth; `count` or fewer more."""
    ordered = [sorted(group, key=lambda c: -c.predicted) for group in groups]
    chosen = [group[0] for group in ordered]
    others = sorted((c for group in ordered for c in group[1:]), key=lambda c: -c.predicted)
    for candidate in others:
        if len(chosen) >= len(groups) + count:
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
