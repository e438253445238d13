"""A sweep: every combination once, in a folder of its own, and on where it was stopped."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest

from specdecodes.benchmark.questions.samples import Benchmark, Sample
from specdecodes.benchmark.report import write_grid_report
from specdecodes.benchmark.results.records import ResultsError
from specdecodes.benchmark.runner import run
from specdecodes.benchmark.sweeps.grid import TABLE, Axis, Row, best, parse_axes, points, sweep
from specdecodes.errors import ConfigError

TINY = Benchmark("tiny", "made by the test", tuple(Sample(str(n), "math", (f"q{n}",)) for n in range(2)))
AXES = [Axis("tree.depth", ("8", "16")), Axis("tree.width", ("4", "6"))]


class Bench:
    """Measures points with a fake generator; `stop_at` is a Ctrl-C at that point, `broken` one that cannot run."""

    def __init__(self, fake, stop_at: int | None = None, broken: str = "") -> None:
        self.fake, self.stop_at, self.broken = fake, stop_at, broken
        self.asked: list[str] = []

    def __call__(self, point, folder: Path) -> str:
        if self.stop_at == len(self.asked):
            raise KeyboardInterrupt
        if point.name == self.broken:
            return "it does not fit."
        generator = self.fake()
        run(generator, TINY, point.pipeline, folder, notify=lambda _: None)
        self.asked += [point.name] * bool(generator.asked)
        return ""


def quiet(line: str) -> None:
    pass


def table(folder: Path) -> list[dict[str, str]]:
    with (folder / TABLE).open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_axes_are_read_as_written():
    assert parse_axes(["tree.depth=8, 16,8", "tree.width=4"]) == [
        Axis("tree.depth", ("8", "16")),
        Axis("tree.width", ("4",)),
    ]


@pytest.mark.parametrize("text", ["tree.depth", "tree.depth=", "=8", "tree.depth= ,"])
def test_what_is_no_axis_is_refused(text: str):
    with pytest.raises(ConfigError, match="is no axis"):
        parse_axes([text])


def test_a_setting_has_one_axis():
    with pytest.raises(ConfigError, match="given twice"):
        parse_axes(["tree.depth=8", "tree.depth=16"])


def test_points_are_every_combination_with_the_settings_own_types(pipeline):
    found = points(pipeline, AXES)
    assert [point.values for point in found] == [
        (("tree.depth", depth), ("tree.width", width)) for depth in (8, 16) for width in (4, 6)
    ]
    assert (found[1].pipeline.tree.depth, found[1].pipeline.tree.width) == (8, 6)
    assert found[1].name == "tree.depth=8,tree.width=6"


@pytest.mark.parametrize(
    ("key", "value", "words"), [("tree.dept", "8", "tree.depth"), ("tree.depth", "0", "1 or more")]
)
def test_a_bad_point_is_refused_before_anything_runs(pipeline, key: str, value: str, words: str):
    with pytest.raises(ConfigError, match=words):
        points(pipeline, [Axis(key, ("4", value))])


def test_a_sweep_writes_one_row_a_point(fake, pipeline, tmp_path: Path):
    rows = sweep(points(pipeline, AXES), tmp_path, Bench(fake), quiet)
    written = table(tmp_path)
    assert [(row["tree.depth"], row["tree.width"]) for row in written] == [
        ("8", "4"),
        ("8", "6"),
        ("16", "4"),
        ("16", "6"),
    ]
    assert all(float(row["tokens_per_second"]) == rows[0].speed == 2.0 and row["samples"] == "2" for row in written)


def counts(row: Row) -> dict[str, Any]:
    """All figures but the process's own memory, which grows from point to point."""
    return {name: value for name, value in row.figures.items() if "peak" not in name}


def test_a_stopped_sweep_goes_on_where_it_was(fake, pipeline, tmp_path: Path):
    grid = points(pipeline, AXES)
    with pytest.raises(KeyboardInterrupt):
        sweep(grid, tmp_path, Bench(fake, stop_at=2), quiet)
    assert [bool(row["tokens_per_second"]) for row in table(tmp_path)] == [True, True, False, False]
    bench = Bench(fake)
    rows = sweep(grid, tmp_path, bench, quiet)
    assert bench.asked == [point.name for point in grid[2:]]
    whole = sweep(grid, tmp_path / "whole", Bench(fake), quiet)
    assert [counts(row) for row in rows] == [counts(row) for row in whole]


def test_a_point_that_cannot_run_is_a_row_and_the_sweep_goes_on(fake, pipeline, tmp_path: Path):
    grid = points(pipeline, AXES)
    rows = sweep(grid, tmp_path, Bench(fake, broken=grid[0].name), quiet)
    assert table(tmp_path)[0]["error"] == "it does not fit." and rows[0].speed is None
    assert best(rows) is not None and all(row.speed for row in rows[1:])
    page = write_grid_report(AXES, rows, tmp_path / "report.html", "the command").read_text(encoding="utf-8")
    for words in (
        "3 of 4 points measured",
        "Fastest with tree.depth 8, tree.width 6: 2.00 tokens/s",
        "it does not fit.",
    ):
        assert words in page
    assert page.count('class="best"') >= 2 and "the command" in page and "http" not in page


def test_results_of_other_settings_are_not_swept_into(fake, pipeline, tmp_path: Path):
    sweep(points(pipeline, AXES), tmp_path, Bench(fake), quiet)
    other = points(pipeline.__class__(**{**vars(pipeline), "max_length": 64}), AXES)
    with pytest.raises(ResultsError, match="max_length"):
        sweep(other, tmp_path, Bench(fake), quiet)
