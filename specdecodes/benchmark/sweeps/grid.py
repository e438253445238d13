"""A sweep over settings: every combination is a pipeline of its own, measured like any other, in a folder of its own.

The folders are those of run-benchmark, so a sweep goes on where it was stopped, down to the sample.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from specdecodes.benchmark.results.reading import find_results
from specdecodes.benchmark.results.records import ResultsError
from specdecodes.benchmark.results.summary import figures
from specdecodes.config import Pipeline, override, to_dict
from specdecodes.errors import ConfigError
from specdecodes.folders import replacing
from specdecodes.notify import Notify

TABLE = "grid.csv"
FIGURES = (
    "samples",
    "new_tokens",
    "tokens_per_second",
    "decode_tokens_per_second",
    "tau",
    "tokens_per_round",
    "draft_step_s",
    "draft_levels",
    "rounds",
    "link_gbps",
    "link_utilization",
    "bound_tokens_per_second",
)
"""Columns of the table after the settings, by the names of the results format."""


@dataclass(frozen=True)
class Axis:
    """A setting and the values it takes, as they were written."""

    key: str
    values: tuple[str, ...]


@dataclass(frozen=True)
class Point:
    """One combination: the value of every axis as the setting's own type holds it."""

    values: tuple[tuple[str, Any], ...]
    pipeline: Pipeline

    @property
    def name(self) -> str:
        """A folder's name: `tree.depth=8,tree.width=4`."""
        return ",".join(f"{key}={value}" for key, value in self.values).replace("/", "_")


@dataclass(frozen=True)
class Row:
    """What was measured at a point. `error` says why nothing was; both are empty for one that is still to run."""

    point: Point
    figures: dict[str, Any]
    error: str = ""

    @property
    def speed(self) -> float | None:
        return self.figures.get("tokens_per_second")


Measure = Callable[[Point, Path], str]
"""Fills a point's folder with results; returns why it could not, or nothing."""


def parse_axes(texts: Iterable[str]) -> list[Axis]:
    """`tree.depth=8,16,32` and its like. Raises ConfigError for what is no axis, and for a setting given twice."""
    axes: list[Axis] = []
    for text in texts:
        key, equals, values = text.partition("=")
        listed = tuple(dict.fromkeys(value.strip() for value in values.split(",") if value.strip()))
        if not equals or not key.strip() or not listed:
            raise ConfigError(f"'{text}' is no axis; write --grid key.path=value,value, such as tree.depth=8,16,32.")
        if key.strip() in {axis.key for axis in axes}:
            raise ConfigError(f"--grid {key.strip()} is given twice; list all its values in one.")
        axes.append(Axis(key.strip(), listed))
    return axes


def points(pipeline: Pipeline, axes: Sequence[Axis]) -> list[Point]:
    """Every combination, the last axis changing fastest. Raises ConfigError for the first that cannot hold, before
    anything runs."""
    found = []
    for combination in product(*(axis.values for axis in axes)):
        changed = pipeline
        for axis, text in zip(axes, combination, strict=True):
            changed = override(changed, axis.key, text)
        found.append(Point(tuple((axis.key, _setting(changed, axis.key)) for axis in axes), changed))
    return found


def sweep(grid: Sequence[Point], out: Path, measure: Measure, notify: Notify) -> list[Row]:
    """Measure every point of `grid` in a folder of its own under `out`, and write the table after each.

    A point that cannot run is a row with its error, and is tried again by the next sweep. Raises ResultsError when the
    folder holds results of other settings.
    """
    rows = [Row(point, {}) for point in grid]
    for place, point in enumerate(grid):
        notify(f"[{place + 1}/{len(grid)}] {point.name}")
        error = measure(point, out / point.name)
        rows[place] = read_row(point, out, error)
        if error:
            notify(f"[{place + 1}/{len(grid)}] {point.name}: FAILED, {error}")
        write_table(rows, out / TABLE)
    return rows


def read_row(point: Point, out: Path, error: str = "") -> Row:
    """The figures in the folder of `point`, all its benchmarks together."""
    try:
        results = find_results(out / point.name)
    except ResultsError:
        return Row(point, {}, error)
    done = [record for result in results.values() for record in result.done.values()]
    measured = figures(done)
    if done:
        measured["peak_device_bytes"] = max(record.peak_device_bytes for record in done)
    return Row(point, measured | {"samples": len(done)}, error)


def write_table(rows: Sequence[Row], path: Path) -> None:
    """One line a point: its settings, its figures, its error. Raises ResultsError."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    keys = [key for key, _ in rows[0].point.values]
    writer.writerow([*keys, *FIGURES, "tokens_per_second_low", "tokens_per_second_high", "peak_device_bytes", "error"])
    writer.writerows(_cells(row) for row in rows)
    try:
        with replacing(path) as file:
            file.write(text.getvalue().encode())
    except OSError as error:
        raise ResultsError(f"{path} cannot be written: {error.strerror}.") from error


def best(rows: Iterable[Row]) -> Row | None:
    """The fastest point; None when none was measured."""
    return max((row for row in rows if row.speed is not None), key=lambda row: row.speed or 0.0, default=None)


def _cells(row: Row) -> Iterator[Any]:
    yield from (value for _, value in row.point.values)
    yield from (row.figures.get(name, "") for name in FIGURES)
    yield from row.figures.get("tokens_per_second_interval") or ("", "")
    yield row.figures.get("peak_device_bytes", "")
    yield row.error


def _setting(pipeline: Pipeline, key: str) -> Any:
    value: Any = to_dict(pipeline)
    for name in key.split("."):
        value = value[name]
    return value
