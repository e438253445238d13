"""The page of a report: result folders in, one HTML file out that needs nothing but itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from specdecodes.benchmark.report import charts, rounds, tables, wording
from specdecodes.benchmark.report.arms import Arm, cautions, identities, ratio, read_arms, shared
from specdecodes.benchmark.report.measured import PHASES, Measured
from specdecodes.benchmark.report.sheet import Figure, Pictured, drawn, write_page
from specdecodes.benchmark.report.tables import PlanView, Table
from specdecodes.benchmark.trace import Timeline

FULL, HALF, THIRD = 1072, 512, 330
"""Pixels of a figure as wide as the page, and of several side by side."""


@dataclass(frozen=True)
class Page:
    """All that the template says, in its order."""

    kicker: str
    headline: str
    reasons: list[str]
    sameness: list[str]
    warnings: list[str]
    pairs: list[list[Figure]]
    rounds: Table
    figures: list[Figure]
    benchmarks: Table | None
    plans: list[PlanView]
    differing: Table
    settings_note: str
    details: list[tuple[str, Table]]
    commands: list[tuple[str, str]]


def write_report(folders: Sequence[Path], out: Path) -> Path:
    """Write the report of result folders (`--out-dir`s of run-benchmark; the first is what others are held against)
    to the file `out`, which is returned. Raises ResultsError for folders without results."""
    return write_page("report.html.jinja", compose(read_arms(folders)), out)


def compose(arms: Sequence[Arm]) -> Page:
    """The content of the page for `arms`, of which the first is the baseline."""
    chosen = shared(arms)
    measured = [arm.measured(chosen) for arm in arms]
    best = max(range(len(arms)), key=lambda place: measured[place].speed)
    differing = tables.differing_settings(arms)
    return Page(
        kicker=tables.kicker(arms, chosen),
        headline=wording.headline(measured),
        reasons=wording.reasons(measured, ratio(arms[best], arms[0], chosen) if best else None),
        sameness=wording.sameness(identities(arms, chosen), arms[0].label),
        warnings=cautions(arms, chosen),
        pairs=[_speed_pair(measured), *([_acceptance_pair(measured)] if any(arm.drafts for arm in measured) else [])],
        rounds=tables.rounds(arms, measured),
        figures=[_over_time(measured), *_timelines(arms)],
        benchmarks=tables.by_benchmark(arms, chosen) if len(chosen) > 1 else None,
        plans=[_plan(arm) for arm in arms if "plan" in arm.any.facts],
        differing=differing,
        settings_note=_settings_note(arms, differing),
        details=[("All settings", tables.all_settings(arms)), ("Environment", tables.environments(arms))],
        commands=[(arm.label, str(arm.any.facts.get("command", ""))) for arm in arms],
    )


def _speed_pair(measured: Sequence[Measured]) -> list[Figure]:
    key = [(phase, words) for phase, words in PHASES.items() if any(arm.token_seconds()[phase] for arm in measured)]
    if any(arm.bound_seconds() for arm in measured):
        key.append(("tick", "the link alone (the bound)"))
    compared = " Ratios are to the first method." if len(measured) > 1 else ""
    return [
        Figure(
            "Speed",
            f"New tokens over the wall clock, prompts included; lines are 95% intervals over questions.{compared}",
            (drawn(lambda width: charts.speed(measured, width), HALF),),
        ),
        Figure(
            "Where a token's time goes",
            "A bar is one over the speed, so the shorter is the faster: what it is made of is why.",
            (drawn(lambda width: charts.token_time(measured, width), HALF),),
            tuple(key),
        ),
    ]


def _acceptance_pair(measured: Sequence[Measured]) -> list[Figure]:
    return [
        Figure(
            "Acceptance by depth",
            "Of the rounds that drafted this deep, the share in which the target agreed all the way.",
            (drawn(lambda width: charts.acceptance(measured, width), HALF),),
        ),
        Figure(
            "Accepted tokens per round",
            "Share of rounds by draft tokens accepted; the tick is the mean, τ. The round's own token comes on top.",
            (drawn(lambda width: charts.accepted_tokens(measured, width), HALF),),
        ),
    ]


def _over_time(measured: Sequence[Measured]) -> Figure:
    note = "Each point is a stretch of the run. Easy and hard questions move it; a machine that slows down bends it."
    return Figure("Tokens per second over time", note, (drawn(lambda width: charts.over_time(measured, width), FULL),))


def _timelines(arms: Sequence[Arm]) -> list[Figure]:
    drawings = [_timeline(arm.timeline, arm.label) for arm in arms if arm.timeline is not None]
    if not drawings:
        return []
    key = (
        ("link", "a layer arrives"),
        ("target", "the target computes it"),
        ("wait", "the target waits"),
        ("draft", "a draft level"),
        ("overhead", "choosing and committing"),
    )
    note = (
        "The median of the rounds that run-profile watched; watching makes them slower. Numbers are layers and levels."
    )
    return [Figure("One round", note, tuple(drawings), key)]


def _timeline(round_: Timeline, label: str) -> Pictured:
    return drawn(lambda width: rounds.timeline(round_, width, label), FULL, label)


def _plan(arm: Arm) -> PlanView:
    layers = drawn(lambda width: rounds.layers(arm.any.facts["plan"], width), THIRD)
    return tables.plan_view(arm, layers)


def _settings_note(arms: Sequence[Arm], differing: Table) -> str:
    if len(arms) == 1:
        return "As resolved from the pipeline and the command line."
    return "Settings that differ; all others are the same." if differing.rows else "All settings are the same."
