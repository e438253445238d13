"""What a plan did not choose, for those who ask why. Pure arithmetic."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from specdecodes.offload.planning.candidates import Candidate, counted, ring_of
from specdecodes.offload.planning.predict import Prediction, Workload, at_depth, predict
from specdecodes.offload.planning.shape import Budgets
from specdecodes.offload.planning.work import Machine, Work
from specdecodes.units import format_bytes

NEARLY = 0.02
"""Placements whose speeds differ by less count as equal: the estimate is no finer."""

_RINGS = (2, 3, 4, 8, 16, 32, 64)
_DEPTHS = (1, 2, 4, 8, 16, 32, 64)
_ACCEPTANCES = (0.7, 0.8, 0.9, 0.95)


@dataclass(frozen=True)
class Alternative:
    """Something that the plan did not choose: its speed (None: it does not fit) and the reason."""

    what: str
    tokens_per_second: float | None
    why: str


def neighbours(
    everything: Sequence[Candidate], chosen: Candidate, budgets: Budgets, predicted: Mapping[int, Prediction]
) -> list[Alternative]:
    """The neighbours of the chosen candidate and both ends of the range, each with its speed or its shortfall."""
    layers, count = len(chosen.resident) + len(chosen.streamed), len(chosen.resident)
    shown = {0, count - 1, count, count + 1, layers}
    alike: dict[tuple[int, int, bool], list[Candidate]] = {}
    for candidate in everything:
        resident = len(candidate.resident)
        if resident in shown:
            with_kept = resident == count and bool(candidate.kept)  # elsewhere the better of both is told
            alike.setdefault((resident, len(candidate.substituted), with_kept), []).append(candidate)
    del alike[count, len(chosen.substituted), bool(chosen.kept)]  # rings apart, that is the chosen one
    rejected = []
    for (resident, substituted, _), group in alike.items():
        what = f"{resident} of {layers} layers resident"
        if chosen.substituted or substituted:
            what += f", {counted(substituted, 'substitute')}"
        best = _fastest(group, predicted)
        what += _of_kept(best)
        if best is not None and best.streamed and best.slots != chosen.slots:
            what += f", {ring_of(best.slots)}"
        rejected.append(_told(what, best, group, chosen, budgets, predicted))
    return rejected + _other_rings(everything, chosen, budgets, predicted)


def _of_kept(best: Candidate | None) -> str:
    return f", {len(best.kept)} kept compressed" if best is not None and best.kept else ""


def _other_rings(
    everything: Sequence[Candidate], chosen: Candidate, budgets: Budgets, predicted: Mapping[int, Prediction]
) -> list[Alternative]:
    """The best candidates with rings of other sizes, of a few sizes."""
    streaming = [candidate for candidate in everything if candidate.streamed] if chosen.streamed else []
    found = []
    for slots in sorted({candidate.slots for candidate in streaming}.intersection(_RINGS) - {chosen.slots}):
        group = [candidate for candidate in streaming if candidate.slots == slots]
        best = _fastest(group, predicted)
        layers = f", {len(best.resident)} of {len(best.resident + best.streamed)} layers resident" if best else ""
        layers += _of_kept(best)
        found.append(_told(ring_of(slots) + layers, best, group, chosen, budgets, predicted))
    return found


def _fastest(group: Sequence[Candidate], predicted: Mapping[int, Prediction]) -> Candidate | None:
    """Of those that fit."""
    fitting = [candidate for candidate in group if id(candidate) in predicted]
    return max(fitting, key=lambda candidate: predicted[id(candidate)].tokens_per_second, default=None)


def _told(
    what: str,
    best: Candidate | None,
    group: Sequence[Candidate],
    chosen: Candidate,
    budgets: Budgets,
    predicted: Mapping[int, Prediction],
) -> Alternative:
    """The `best` of a group and why it was not chosen; None: what a group is short of that does not fit."""
    if best is None:
        short = min(candidate.shortfall(budgets) for candidate in group)
        return Alternative(what, None, f"{format_bytes(short)} over the budget")
    other, taken = predicted[id(best)], predicted[id(chosen)]
    if other.tokens_per_second < taken.tokens_per_second:
        return Alternative(what, other.tokens_per_second, "slower")
    worse = "its draft is slower" if other.draft_step_s > taken.draft_step_s else "it streams or takes more"
    return Alternative(what, other.tokens_per_second, f"not {NEARLY:.0%} faster, and {worse}")


def other_rounds(work: Work, machine: Machine, workload: Workload, levels: float) -> list[Alternative]:
    """The chosen placement at other depths, and at other luck."""
    if not workload.levels:
        return []
    why = "slower" if workload.adaptive else "tree.adaptive is off"
    if workload.seen is not None:
        why = "all rounds alike; they choose for themselves" if workload.adaptive else why
        machine, workload = replace(machine, round_seconds=workload.seen.rest_s), replace(workload, seen=None)
    depths = {depth for depth in (*_DEPTHS, workload.levels) if depth <= workload.levels and depth != levels}
    others = [
        Alternative(
            f"{counted(depth, 'draft level')} a round",
            at_depth(work, machine, workload, depth).tokens_per_second,
            why,
        )
        for depth in sorted(depths)
    ]
    for acceptance in _ACCEPTANCES:
        speed = predict(work, machine, replace(workload, acceptance=acceptance)).tokens_per_second
        others.append(Alternative(f"acceptance {acceptance:g} a level", speed, "another model or text"))
    return others
