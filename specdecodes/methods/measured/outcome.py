"""What earlier runs of a setting showed: the next plan starts from that, not from assumptions."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import asdict, replace
from typing import Any

from specdecodes.config import Pipeline
from specdecodes.methods.measured.ledger import Figures, every, keep, key_of, recall
from specdecodes.methods.measured.machine import compressed_tier, remember_stream
from specdecodes.methods.measured.step_times import narrower
from specdecodes.models.loading import open_checkpoint
from specdecodes.offload.planning.experience import Run, pooled
from specdecodes.offload.planning.plan import Placement
from specdecodes.offload.planning.predict import Seen, Step, StepTimes, at_depth

ENOUGH = 32
"""New tokens from which on a run says something."""

_STEPS = ("streamed_pass", "resident_pass", "level")
_FIGURES = ("substitute", "draft_model", "one_lane")
_NAMES = (*(f"{step}.{part}" for step in _STEPS for part in ("layer", "rest")), *_FIGURES)
_RUN = ("rounds", "levels", "tokens", "rest_s", "answers", "spread")


def learn(
    pipeline: Pipeline, placement: Placement, summary: Mapping[str, Any], habits: Mapping[str, float] | None = None
) -> None:
    """Keep what a run of `pipeline` showed; `summary` is by the names of the results format, `habits` are the
    generator's."""
    rounds, predicted = summary.get("rounds", 0), placement.predicted
    if not rounds or summary["new_tokens"] < ENOUGH:
        return
    assert placement.basis is not None, "a planned placement knows what it rests on"
    step = placement.basis[0].draft_step_s
    draft = summary["draft_step_s"] / step if summary["draft_step_s"] and step else 1.0
    target = summary["phase_seconds"]["target"] / rounds / predicted.compute_s if predicted.compute_s else 1.0
    times = placement.times.scaled(draft, target)
    figures: Figures = {f"{name}.layer": step.layer for name, step in _steps(times).items()}
    figures |= {f"{name}.rest": step.rest for name, step in _steps(times).items()}
    figures |= {name: asdict(times)[name] for name in _FIGURES} | {"new_tokens": summary["new_tokens"]}
    figures |= {_share(rows): share for rows, share in times.narrower} | _run(placement, summary)
    figures |= habits or {}
    keep(_key(pipeline, made_of(placement.kernel, placement.draft_rules)), figures)
    learn_stream(pipeline, placement, summary["link_gbps"])


def learn_stream(pipeline: Pipeline, placement: Placement, gbps: float) -> None:
    """Keep what weights arrived at, GB/s while anything was read; 0 where nothing streamed."""
    assert placement.basis is not None, "a planned placement knows what it rests on"
    if gbps and placement.linked and not (placement.compression and placement.basis[1].has_accelerator):
        files = open_checkpoint(pipeline.target.model, pipeline.target.revision).files
        tier = compressed_tier(placement.comes_as) if placement.comes_as else placement.tier
        remember_stream(tier, files, gbps)


def made_of(kernel: str, rules: object) -> str:
    """What the plan chose of a draft, by which runs are told apart."""
    return f"{kernel} {rules}"


def known_times(pipeline: Pipeline, draft: str) -> StepTimes | None:
    """The step times of the last runs of this setting on this machine."""
    key, rows = _key(pipeline, draft), narrower(pipeline.tree.nodes)
    kept, shares = recall(key, (*_NAMES, "new_tokens")), recall(key, map(_share, rows))
    if kept is None:
        return None
    known: dict[str, Any] = {name: kept[name] for name in _FIGURES}
    known |= {name: Step(kept[f"{name}.layer"], kept[f"{name}.rest"]) for name in _STEPS}
    known |= {"narrower": tuple((size, shares[_share(size)]) for size in rows) if shares else ()}
    return StepTimes(**known, source=_last_runs(kept))


def known_habits(pipeline: Pipeline, draft: str, names: Collection[str]) -> Figures | None:
    """What the last run of this setting that told all the `names` had learned of its draft: they belong together, so
    they are of one run."""
    kept = every(_key(pipeline, draft), names) if names else []
    return kept[-1] if kept else None


def known_rounds(pipeline: Pipeline, draft: str) -> tuple[Seen, str] | None:
    """The rounds of those runs, and the words for it."""
    kept = every(_key(pipeline, draft), (*_RUN, "new_tokens"))
    if not kept:
        return None
    runs = [Run(**{name: figures[name] for name in _RUN}, missed=figures.get("missed")) for figures in kept]
    answers, tokens = (sum(figures[name] for figures in kept) for name in ("answers", "new_tokens"))
    return pooled(runs), f"measured in {answers:.0f} answers of this setting, {tokens:,.0f} tokens"


def _run(placement: Placement, summary: Mapping[str, Any]) -> Figures:
    """The fields of `Run`: the means of a run's rounds, and what its own steps and link leave unexplained of their
    seconds (less than nothing where more overlapped than is thought)."""
    assert placement.basis is not None, "a planned placement knows what it rests on"
    work, machine, workload = placement.basis
    rounds, phases, link = summary["rounds"], summary["phase_seconds"], summary["link_gbps"]
    if link:
        tier = {"host_gbps": link} if placement.tier == "host" else {"disk_gbps": link}
        machine = replace(machine, **tier)
    # On an accelerator the seconds of a link have in them what it took to expand what that brought.
    expand_s = work.kept_s if machine.has_accelerator else work.expand_s
    work = replace(work, draft_step_s=summary["draft_step_s"], compute_s=phases["target"] / rounds, expand_s=expand_s)
    levels = summary["draft_levels"] / rounds
    once = replace(workload, catches_up=False)  # which is in the steps that were measured
    explained = at_depth(work, replace(machine, round_seconds=0.0), once, levels).round_s
    seconds = sum(spent for phase, spent in phases.items() if phase != "prefill") / rounds
    spread = summary.get("speed_spread")
    figures = (rounds, levels, summary["tokens_per_round"], seconds - explained)
    answers = summary.get("requests", summary.get("samples", 1)) if spread is not None else 1
    found: Figures = dict(zip(_RUN, (*figures, answers, spread or 0.0), strict=True))
    if workload.seen is not None:
        speed = summary["tokens_per_round"] / seconds
        found["missed"] = math.log(speed / placement.predicted.tokens_per_second)
    return found


def _share(rows: int) -> str:
    return f"pass of {rows}"


def _last_runs(kept: Figures) -> str:
    return f"measured in the last runs of this setting, {kept['new_tokens']:.0f} tokens each"


def _steps(times: StepTimes) -> dict[str, Step]:
    return {"streamed_pass": times.streamed_pass, "resident_pass": times.resident_pass, "level": times.level}


def _key(pipeline: Pipeline, draft: str) -> str:
    """All that decides speed and acceptance; not the seed, nor the budgets, for which the plan accounts."""
    middle = (pipeline.middle,) if pipeline.middle.model else ()
    parts = (pipeline.method, pipeline.target, pipeline.draft, pipeline.tree, *middle, pipeline.exact, pipeline.compile)
    return key_of("outcome", *parts, draft, replace(pipeline.sampling, seed=0, max_tokens=1))
