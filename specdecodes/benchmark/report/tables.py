"""The tables of a report, as text cells: terms of the round, benchmarks, the plan, settings, environment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from specdecodes.benchmark.report.arms import Arm, Samples, differing
from specdecodes.benchmark.report.drawing import duration, shown
from specdecodes.benchmark.report.measured import Measured
from specdecodes.benchmark.results.journal import flat
from specdecodes.units import format_bytes

NONE = "–"


@dataclass(frozen=True)
class Table:
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Part:
    """A part of the planned memory, and its share of the largest in percent."""

    name: str
    size: str
    percent: str


@dataclass(frozen=True)
class PlanView:
    name: str
    layers: Any  # the drawing, wide and narrow
    note: str
    parts: tuple[Part, ...]
    total_name: str
    total: str


TERMS = (
    "drafting",
    "computing the pass",
    "waiting for weights",
    "the rest",
    "a round takes",
    "tokens a round",
    "a middle model accepts, of what it is offered",
    "tokens/s, prompts left out",
    "draft levels",
    "a draft level",
    "bound of the link, tokens/s",
    "link",
    "link busy",
    "peak memory",
)


def rounds(arms: Sequence[Arm], measured: Sequence[Measured]) -> Table:
    """The measured terms of a round down the page, a column a method."""
    columns = [_terms(arm, one) for arm, one in zip(arms, measured, strict=True)]
    rows = [(term, *(column[place] for column in columns)) for place, term in enumerate(TERMS)]
    if any(arm.any.summary.get("scored") for arm in arms):
        rows.append(("score", *map(_score, arms)))
    return Table(("", *(arm.label for arm in arms)), tuple(row for row in rows if set(row[1:]) != {NONE}))


def by_benchmark(arms: Sequence[Arm], chosen: Samples) -> Table:
    """A row a benchmark, and for each method its speed with interval and its tau."""
    rows = []
    for name, keys in chosen.items():
        cells = [name]
        for arm in arms:
            one = arm.measured({name: keys})
            spread = f" ({shown(one.interval[0])}–{shown(one.interval[1])})" if one.interval else ""
            cells += [f"{shown(one.speed)}{spread}", f"{one.figures['tau']:.2f}" if one.drafts else NONE]
        rows.append(tuple(cells))
    return Table(("", *(title for arm in arms for title in (arm.label, "τ"))), tuple(rows))


def kicker(arms: Sequence[Arm], chosen: Samples) -> str:
    """What was run, where: one line above the headline."""
    models = sorted({Path(str(arm.any.facts.get("model", ""))).name for arm in arms})
    machines = sorted({_machine(arm) for arm in arms})
    count = sum(map(len, chosen.values()))
    questions = f"{count} question{'s' if count > 1 else ''} of {', '.join(chosen)}"
    return " · ".join([", ".join(models), questions, *machines])


def plan_view(arm: Arm, layers: Any) -> PlanView:
    """Where the layers live and what takes the memory, the largest part first."""
    plan: Mapping[str, Any] = arm.any.facts["plan"]
    sizes = {name: size for name, size in plan["device_bytes"].items() if size}
    largest, total = max(sizes.values(), default=1), sum(sizes.values())
    budget = plan["budgets"]["device"]
    parts = tuple(
        Part(name, format_bytes(size), f"{100 * size / largest:.1f}")
        for name, size in sorted(sizes.items(), key=lambda item: -item[1])
    )
    total_name = plan["device_name"] + (f", of a budget of {format_bytes(budget)}" if budget else "")
    return PlanView(arm.label, layers, _streaming(plan, arm), parts, total_name, format_bytes(total))


def differing_settings(arms: Sequence[Arm]) -> Table:
    return _settings(arms, differing(arms) if len(arms) > 1 else [])


def all_settings(arms: Sequence[Arm]) -> Table:
    return _settings(arms, sorted({key for arm in arms for key in arm.settings()}))


def environments(arms: Sequence[Arm]) -> Table:
    facts = [flat(arm.any.facts.get("environment", {})) for arm in arms]
    keys = list(dict.fromkeys(key for fact in facts for key in fact))
    rows = tuple((key, *(_text(fact.get(key)) for fact in facts)) for key in keys)
    return Table(("", *(arm.label for arm in arms)), rows)


def _settings(arms: Sequence[Arm], keys: Sequence[str]) -> Table:
    settings = [arm.settings() for arm in arms]
    rows = tuple((key, *(_text(one.get(key)) for one in settings)) for key in keys)
    return Table(("", *(arm.label for arm in arms)), rows)


def _terms(arm: Arm, measured: Measured) -> tuple[str, ...]:
    """A cell for each of TERMS."""
    figures, seconds = measured.figures, measured.round_seconds()
    levels = figures["draft_levels"] / max(figures["rounds"], 1)
    bound, peak = figures["bound_tokens_per_second"], arm.any.summary["peak_device_bytes"]
    streams = bool(figures["bytes_streamed"])
    return (
        duration(seconds["draft"]) if measured.drafts else NONE,
        duration(seconds["target"]),
        duration(seconds["wait"]) if streams else NONE,
        duration(seconds["overhead"]),
        duration(sum(seconds.values())),
        f"{figures['tokens_per_round']:.2f}",
        _below(figures["acceptance_per_level"]),
        shown(figures["decode_tokens_per_second"]),
        f"{levels:.1f}" if measured.drafts else NONE,
        duration(figures["draft_step_s"]) if measured.drafts else NONE,
        shown(bound) if bound else NONE,
        f"{figures['link_gbps']:.2f} GB/s" if streams else NONE,
        f"{figures['link_utilization']:.0%}" if streams else NONE,
        format_bytes(peak) if peak else NONE,
    )


def _below(levels: Sequence[Mapping[str, Any]]) -> str:
    """What each middle model took in a round of its own, of what its draft offered."""
    parts = [f"{level['tau']:.2f} of {level['proposed'] / max(level['rounds'], 1):.2f}" for level in levels[1:]]
    return ", ".join(parts) or NONE


def _score(arm: Arm) -> str:
    score = arm.any.summary.get("score")
    return NONE if score is None else f"{score:.0%}"


def _streaming(plan: Mapping[str, Any], arm: Arm) -> str:
    count, kept = len(plan["resident"]) + len(plan["streamed"]), len(plan.get("kept", ()))
    streamed = len(plan["streamed"]) - kept
    if not streamed:
        where = f"All {count} layers stay in memory."
    else:
        source = "host memory" if len(plan["pinned"]) == streamed else f"disk ({plan['storage'] or 'not probed'})"
        where = f"{streamed} of {count} layers stream from {source}: {format_bytes(plan['bytes_per_pass'])} a pass."
    where += f" {kept} of those in memory are kept compressed." if kept else ""
    predicted, measured = plan["predicted"]["tokens_per_second"], arm.any.summary["decode_tokens_per_second"]
    return f"{where} Predicted {shown(predicted)} tokens/s, measured {shown(measured)} (prompts left out)."


def _machine(arm: Arm) -> str:
    environment = arm.any.facts.get("environment", {})
    places = [*environment.get("accelerators", []), f"{environment.get('cores')} cores of {environment.get('cpu')}"]
    return ", ".join(places)


def _text(value: Any) -> str:
    if value is None or value in ([], ""):
        return NONE
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
