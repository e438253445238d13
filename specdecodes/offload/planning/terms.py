"""A prediction beside what was measured, term by term: which one missed, and what that did to the speed.

tokens/s = tokens a round / (levels * draft step + pass + wait + overhead)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from specdecodes.offload.planning.predict import Prediction


@dataclass(frozen=True)
class TermCheck:
    """One term, predicted and measured, in the same unit; `effect`: by what share the speed would have been predicted
    wrong if this term alone had been, None for one of which a round is not made."""

    term: str
    predicted: float
    measured: float
    effect: float | None = None

    @property
    def ratio(self) -> float:
        """Measured over predicted; 0 when nothing was predicted."""
        return self.measured / self.predicted if self.predicted else 0.0


def compare(prediction: Prediction, summary: Mapping[str, Any]) -> list[TermCheck]:
    """The prediction beside a run's summary (by the names of the results format); terms that it lacks are left out."""
    pairs = {
        "link_gbps": (prediction.link_gbps, summary.get("link_gbps")),
        "tokens_per_round": (prediction.tokens_per_round, summary.get("tokens_per_round")),
        "decode_tokens_per_second": (prediction.tokens_per_second, summary.get("decode_tokens_per_second")),
        "bound_tokens_per_second": (prediction.bound_tokens_per_second, summary.get("bound_tokens_per_second")),
    }
    effects = {"tokens_per_round": lambda predicted, measured: predicted / measured - 1.0}
    checks = [
        TermCheck(term, predicted, float(measured), effects[term](predicted, measured) if term in effects else None)
        for term, (predicted, measured) in pairs.items()
        if predicted and measured
    ]
    return _of_a_round(prediction, summary) + checks


def _of_a_round(prediction: Prediction, summary: Mapping[str, Any]) -> list[TermCheck]:
    """The seconds that a round is made of, and their sum."""
    rounds, phases = summary.get("rounds", 0), summary.get("phase_seconds", {})
    step = summary.get("draft_step_s", 0.0)
    if not rounds:
        return [TermCheck("draft_step_s", prediction.draft_step_s, step)] if step else []
    whole = sum(seconds for phase, seconds in phases.items() if phase != "prefill") / rounds
    levels = summary.get("draft_levels", 0) / rounds
    passed, waited = (phases.get(phase, 0.0) / rounds for phase in ("target", "wait"))
    p, rest = prediction, whole - levels * step - passed - waited
    terms = (
        ("draft_levels_per_round", float(p.levels), levels, (p.levels - levels) * step),
        ("draft_step_s", p.draft_step_s, step, (p.draft_step_s - step) * p.levels),
        ("pass_s", p.compute_s, passed, p.compute_s - passed),
        ("wait_s", p.wait_s, waited, p.wait_s - waited),
        ("overhead_s", p.rest_s, rest, p.rest_s - rest),
    )
    found = [
        TermCheck(term, predicted, measured, whole / (whole + more) - 1.0)
        for term, predicted, measured, more in terms
        if predicted or measured
    ]
    return [*found, TermCheck("round_s", p.round_s, whole)] if p.round_s and whole else found
