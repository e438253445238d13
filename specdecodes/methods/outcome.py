"""What earlier runs of a setting showed: the next plan starts from that, not from assumptions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from specdecodes.config import Pipeline
from specdecodes.methods.ledger import Figures, keep, key_of, recall
from specdecodes.methods.machine import remember_stream
from specdecodes.models.loading import open_checkpoint
from specdecodes.offload.plan import Placement
from specdecodes.offload.predict import Step, StepTimes, acceptance_of

ENOUGH = 32
"""New tokens from which on a run says something."""

_STEPS = ("streamed_pass", "resident_pass", "level")
_FIGURES = ("substitute", "draft_model", "one_row", "one_lane")
_NAMES = (*(f"{step}.{part}" for step in _STEPS for part in ("layer", "rest")), *_FIGURES)


def learn(pipeline: Pipeline, placement: Placement, summary: Mapping[str, Any]) -> None:
    """Keep what a run of `pipeline` showed; `summary` is by the names of the results format."""
    rounds, predicted = summary.get("rounds", 0), placement.predicted
    if not rounds or summary["new_tokens"] < ENOUGH:
        return
    draft = summary["draft_step_s"] / predicted.draft_step_s if predicted.draft_step_s else 1.0
    target = summary["phase_seconds"]["target"] / rounds / predicted.compute_s if predicted.compute_s else 1.0
    times, shares = placement.times.scaled(draft, target), summary["accepted_by_depth"]
    figures: Figures = {f"{name}.layer": step.layer for name, step in _steps(times).items()}
    figures |= {f"{name}.rest": step.rest for name, step in _steps(times).items()}
    figures |= {name: asdict(times)[name] for name in _FIGURES} | {"tokens": summary["new_tokens"]}
    figures |= {"acceptance": acceptance_of(1.0 + sum(shares), len(shares)) if shares else 0.0}
    keep(_key(pipeline, placement.kernel), figures)
    if placement.streamed and summary["link_gbps"] and placement.compression is None:
        files = open_checkpoint(pipeline.target.model, pipeline.target.revision).files
        remember_stream(placement.tier, files, summary["link_gbps"])


def known_times(pipeline: Pipeline, kernel: str) -> StepTimes | None:
    """The step times of the last runs of this setting on this machine."""
    kept = recall(_key(pipeline, kernel), (*_NAMES, "tokens"))
    if kept is None:
        return None
    known: dict[str, Any] = {name: kept[name] for name in _FIGURES}
    known |= {name: Step(kept[f"{name}.layer"], kept[f"{name}.rest"]) for name in _STEPS}
    return StepTimes(**known, source=_last_runs(kept))


def known_acceptance(pipeline: Pipeline, kernel: str) -> tuple[float, str] | None:
    """The acceptance a level in those runs, and the words for it."""
    kept = recall(_key(pipeline, kernel), ("acceptance", "tokens"))
    return None if kept is None else (kept["acceptance"], _last_runs(kept))


def _last_runs(kept: Figures) -> str:
    return f"measured in the last runs of this setting, {kept['tokens']:.0f} tokens each"


def _steps(times: StepTimes) -> dict[str, Step]:
    return {"streamed_pass": times.streamed_pass, "resident_pass": times.resident_pass, "level": times.level}


def _key(pipeline: Pipeline, kernel: str) -> str:
    """All that decides speed and acceptance; not the seed, nor the budgets, for which the plan accounts."""
    parts = (pipeline.method, pipeline.target, pipeline.draft, pipeline.tree, pipeline.exact, pipeline.compile)
    return key_of("outcome", *parts, kernel, replace(pipeline.sampling, seed=0, max_tokens=1))
