"""The page of a sweep: which combination is fastest, on a map and in a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from specdecodes.benchmark.report.drawing import Drawing, shown
from specdecodes.benchmark.report.heat import Cells, heat_map
from specdecodes.benchmark.report.sheet import Figure, Pictured, drawn, write_page
from specdecodes.benchmark.report.tables import NONE, Table
from specdecodes.benchmark.sweeps.grid import Axis, Row, best

HALF = 512


@dataclass(frozen=True)
class GridPage:
    """All that the template says, in its order."""

    kicker: str
    headline: str
    reasons: str
    figures: tuple[Figure, ...]
    points: Table
    failed: tuple[tuple[str, str], ...]  # (point, why)
    command: str


def write_grid_report(axes: Sequence[Axis], rows: Sequence[Row], out: Path, command: str) -> Path:
    """Write the report of a sweep to the file `out`, which is returned. Raises ResultsError."""
    return write_page("grid.html.jinja", compose_grid(axes, rows, command), out)


def compose_grid(axes: Sequence[Axis], rows: Sequence[Row], command: str) -> GridPage:
    """The content of the page."""
    pipeline = rows[0].point.pipeline
    measured = sum(row.speed is not None for row in rows)
    samples = max((row.figures.get("samples", 0) for row in rows), default=0)
    return GridPage(
        kicker=f"{pipeline.method} on {Path(pipeline.target.model).name} · {measured} of {len(rows)} points measured"
        f" · {samples} question{'' if samples == 1 else 's'} each",
        headline=_headline(rows),
        reasons=_reasons(rows),
        figures=tuple(
            Figure(title, note, tuple(_maps(axes, rows, name)))
            for name, title, note in (
                (
                    "tokens_per_second",
                    "Tokens per second",
                    "Prompts included. The stronger the colour the faster; the fastest is framed.",
                ),
                ("tau", "Accepted tokens per round", "τ, the round's own token left out: what a longer draft gains."),
            )
        ),
        points=_table(rows),
        failed=tuple((row.point.name, row.error) for row in rows if row.error),
        command=command,
    )


def _maps(axes: Sequence[Axis], rows: Sequence[Row], name: str) -> list[Pictured]:
    """A map over the two settings with most values, one for each combination of the others; all of one shading."""
    ranked = sorted(axes, key=lambda axis: -len(axis.values))[:2]
    shown_axes = [axis for axis in axes if axis in ranked]
    across, down = shown_axes[-1], shown_axes[0] if len(shown_axes) > 1 else None
    others = [axis.key for axis in axes if axis not in shown_axes]
    values = [row.figures[name] for row in rows if row.figures.get(name) is not None]
    span = (min(values, default=0.0), max(values, default=1.0))
    settings = [{key: str(value) for key, value in row.point.values} for row in rows]
    maps = []
    for rest in product(*(dict.fromkeys(one[key] for one in settings) for key in others)):
        cells: Cells = {
            (one[down.key] if down else "", one[across.key]): row.figures.get(name)
            for one, row in zip(settings, rows, strict=True)
            if all(one[key] == value for key, value in zip(others, rest, strict=True))
        }

        def draw(width: float, cells: Cells = cells) -> Drawing:
            return heat_map(cells, down.key if down else "", across.key, width, span)

        maps.append(drawn(draw, HALF, ", ".join(f"{key} {value}" for key, value in zip(others, rest, strict=True))))
    return maps


def _headline(rows: Sequence[Row]) -> str:
    fastest = best(rows)
    if fastest is None:
        return "No point could be measured"
    settings = ", ".join(f"{key} {value}" for key, value in fastest.point.values)
    return f"Fastest with {settings}: {shown(fastest.speed or 0.0)} tokens/s"


def _reasons(rows: Sequence[Row]) -> str:
    """How much the choice matters, and whether it is sure."""
    fastest, speeds = best(rows), [row.speed for row in rows if row.speed]
    if fastest is None or len(speeds) < 2:
        return ""
    text = f"The slowest point reaches {min(speeds) / max(speeds):.0%} of that."
    spread = fastest.figures.get("tokens_per_second_interval")
    if spread:
        near = sum(speed >= spread[0] for speed in speeds) - 1
        others = {0: "no other point lies", 1: "one other point lies"}.get(near, f"{near} other points lie")
        text += f" Its 95% interval is {shown(spread[0])} to {shown(spread[1])}; {others} within it."
    return text


def _table(rows: Sequence[Row]) -> Table:
    """The fastest first; what failed comes last."""
    ordered = sorted(rows, key=lambda row: -(row.speed or 0.0))
    keys = [key for key, _ in rows[0].point.values]
    head = (*keys, "tokens/s", "95% interval", "τ", "tokens a round", "draft step")
    return Table(head, tuple(map(_cells, ordered)))


def _cells(row: Row) -> tuple[str, ...]:
    settings = tuple(str(value) for _, value in row.point.values)
    if row.speed is None:
        return (*settings, NONE, NONE, NONE, NONE, NONE)
    figures, spread = row.figures, row.figures["tokens_per_second_interval"]
    return (
        *settings,
        shown(row.speed),
        f"{shown(spread[0])}–{shown(spread[1])}" if spread else NONE,
        f"{figures['tau']:.2f}",
        f"{figures['tokens_per_round']:.2f}",
        f"{figures['draft_step_s'] * 1e3:.2f} ms" if figures["draft_levels"] else NONE,
    )
