"""What a plan did not choose, for those who ask why. Pure arithmetic."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from specdecodes.offload.candidates import Budgets, Candidate, counted, ring_of
from specdecodes.offload.predict import Machine, Prediction, Work, Workload, at_depth, predict
from specdecodes.units import format_bytes

NEARLY = 0.02
"""Placements whose speeds differ by less count as equal: the estimate is no finer."""

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
    rejected = []
    for candidate in everything:
        if candidate is chosen or len(candidate.resident) not in shown or candidate.slots != chosen.slots:
            continue
        what = f"{len(candidate.resident)} of {layers} layers resident"
        if chosen.substituted or candidate.substituted:
            what += f", {counted(len(candidate.substituted), 'substitute')}"
        prediction = predicted.get(id(candidate))
        if prediction is None:
            why = f"{format_bytes(candidate.shortfall(budgets))} over the budget"
            rejected.append(Alternative(what, None, why))
        else:
            slower = prediction.tokens_per_second < predicted[id(chosen)].tokens_per_second
            why = "slower" if slower else f"not {NEARLY:.0%} faster, and streams or takes more"
            rejected.append(Alternative(what, prediction.tokens_per_second, why))
    return rejected + _other_rings(everything, chosen, budgets, predicted)


def _other_rings(
    everything: Sequence[Candidate], chosen: Candidate, budgets: Budgets, predicted: Mapping[int, Prediction]
) -> list[Alternative]:
    """The best candidate of every other size of the ring."""
    found = []
    for slots in sorted({candidate.slots for candidate in everything} - {chosen.slots}):
        alike = [candidate for candidate in everything if candidate.slots == slots]
        fitting = [candidate for candidate in alike if id(candidate) in predicted]
        if not fitting:
            short = min(candidate.shortfall(budgets) for candidate in alike)
            found.append(Alternative(ring_of(slots), None, f"{format_bytes(short)} over the budget"))
            continue
        best = max(fitting, key=lambda candidate: predicted[id(candidate)].tokens_per_second)
        what = f"{ring_of(slots)}, {len(best.resident)} of {len(best.resident) + len(best.streamed)} layers resident"
        found.append(Alternative(what, predicted[id(best)].tokens_per_second, "no faster: a resident layer saves more"))
    return found


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
