"""The figures of a report as files for papers, drawn with matplotlib from the same measurements."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from specdecodes.benchmark.report.arms import Arm, read_arms, shared
from specdecodes.benchmark.report.charts import POINTS
from specdecodes.benchmark.report.measured import PHASES, Measured
from specdecodes.benchmark.results.records import ResultsError
from specdecodes.benchmark.trace import Timeline
from specdecodes.extras import extra

ARM_COLOURS = ("#8b949e", "#0072b2", "#d55e00", "#009e73", "#b0609a", "#a07a00")
PHASE_COLOURS = {
    "prefill": "#d3d8dd",
    "draft": "#74bde8",
    "target": "#0072b2",
    "wait": "#e69f00",
    "overhead": "#aab2ba",
}
WIDTH, DOTS = 3.4, 300
"""Inches of a column, and dots an inch."""


def write_plates(folders: Sequence[Path], out: Path) -> list[Path]:
    """Write a PNG a figure into the folder `out`. Raises ResultsError for folders without results or no matplotlib."""
    extra("matplotlib", ResultsError("figures need matplotlib; install it with: pip install matplotlib")).use("Agg")
    from matplotlib import pyplot

    arms = read_arms(folders)
    measured = [arm.measured(shared(arms)) for arm in arms]
    style = {"font.size": 7, "axes.spines.top": False, "axes.spines.right": False, "svg.hashsalt": "specdecodes"}
    written = []
    out.mkdir(parents=True, exist_ok=True)
    with pyplot.rc_context(style):
        for name, height, draw in _plates(arms, measured):
            figure, axes = pyplot.subplots(figsize=(WIDTH, height), layout="constrained")
            draw(axes)
            figure.savefig(out / f"{name}.png", dpi=DOTS)
            pyplot.close(figure)
            written.append(out / f"{name}.png")
    return written


def _plates(arms: Sequence[Arm], measured: Sequence[Measured]) -> list[tuple[str, float, Callable[[Any], None]]]:
    """(file name, inches high, what draws it on axes)."""
    drafting = [arm for arm in measured if arm.drafts]
    rows = 0.6 + 0.28 * len(measured)
    plates: list[tuple[str, float, Callable[[Any], None]]] = [
        ("speed", rows, lambda axes: _speed(axes, measured)),
        ("token-time", rows + 0.5, lambda axes: _token_time(axes, measured)),
        ("over-time", 2.0, lambda axes: _over_time(axes, measured)),
    ]
    if drafting:
        plates.append(("acceptance", 2.0, lambda axes: _acceptance(axes, drafting)))
        plates.append(("accepted", 2.0, lambda axes: _accepted(axes, drafting)))
    for place, arm in enumerate(arms, 1):
        if arm.timeline is not None:
            plates.append((f"round-{place}", 1.3, partial(_round, round_=arm.timeline, label=arm.label)))
    return plates


def _speed(axes: Any, arms: Sequence[Measured]) -> None:
    for row, arm in enumerate(reversed(arms)):
        axes.barh(row, arm.speed, color=_colour(arm), height=0.6)
        low, high = arm.interval or (arm.speed, arm.speed)
        axes.plot([low, high], [row, row], color="black", linewidth=0.8)
        axes.annotate(f"{arm.speed:.3g}", (max(high, arm.speed), row), (3, 0), textcoords="offset points", va="center")
    axes.set_yticks(range(len(arms)), [arm.label for arm in reversed(arms)])
    axes.set_xlabel("tokens/s, with 95% intervals over questions")
    axes.margins(x=0.12)


def _token_time(axes: Any, arms: Sequence[Measured]) -> None:
    for row, arm in enumerate(reversed(arms)):
        left = 0.0
        for phase, seconds in arm.token_seconds().items():
            named = PHASES[phase] if row == 0 else None
            axes.barh(row, seconds * 1e3, left=left, color=PHASE_COLOURS[phase], height=0.6, label=named)
            left += seconds * 1e3
        bound = arm.bound_seconds()
        if bound is not None:
            named = "the link alone" if row == 0 else None
            axes.vlines(bound * 1e3, row - 0.42, row + 0.42, color="black", linewidth=1, label=named)
    axes.set_yticks(range(len(arms)), [arm.label for arm in reversed(arms)])
    axes.set_xlabel("ms a token")
    axes.figure.legend(ncols=2, frameon=False, loc="outside lower center")


def _acceptance(axes: Any, arms: Sequence[Measured]) -> None:
    for arm in arms:
        shares = arm.figures["accepted_by_depth"]
        axes.plot(range(1, len(shares) + 1), shares, color=_colour(arm), marker="o", markersize=2, label=arm.label)
    axes.set(xlabel="depth in the tree", ylabel="share of rounds accepted", ylim=(0, 1.02))
    axes.legend(frameon=False)


def _accepted(axes: Any, arms: Sequence[Measured]) -> None:
    for arm in arms:
        shares = arm.accepted()
        label = f"{arm.label}, τ = {arm.figures['tau']:.2f}"
        axes.step(list(shares), list(shares.values()), where="mid", color=_colour(arm), label=label)
    axes.set(xlabel="draft tokens accepted in a round", ylabel="share of rounds")
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False)


def _over_time(axes: Any, arms: Sequence[Measured]) -> None:
    for arm in arms:
        if points := arm.over_time(POINTS):
            axes.plot(*zip(*points, strict=True), color=_colour(arm), linewidth=1, label=arm.label)
    axes.set(xlabel="seconds of answering", ylabel="tokens/s")
    axes.set_ylim(bottom=0)
    if axes.lines:
        axes.legend(frameon=False)


def _round(axes: Any, round_: Timeline, label: str) -> None:
    lanes = {"draft": (0, round_.draft, "draft"), "target": (1, round_.target, "target")}
    lanes |= {
        "wait": (1, round_.wait, "wait"),
        "rest": (1, round_.rest, "overhead"),
        "link": (2, round_.link, "link"),
    }
    for row, bars, kind in lanes.values():
        spans = [(start * 1e3, (end - start) * 1e3) for _, start, end in bars]
        axes.broken_barh(
            spans, (row - 0.35, 0.7), color={**PHASE_COLOURS, "link": "#8b949e"}[kind], edgecolor="white", linewidth=0.2
        )
    axes.set_yticks((0, 1, 2), ("draft", "target", "link"))
    axes.set(xlabel=f"ms of one round, {label}", xlim=(0, round_.seconds * 1e3))


def _colour(arm: Measured) -> str:
    return ARM_COLOURS[arm.colour % len(ARM_COLOURS)]
