"""`run-grid-search`: a benchmark at every combination of some settings, and which is fastest."""

import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from specdecodes.cli.options import Benchmarks, DataDir, MaxSamples, pipeline_command, spoken
from specdecodes.cli.progress import plain_lines
from specdecodes.errors import SpecDecodesError
from specdecodes.notify import Notify
from specdecodes.tables import ruled

if TYPE_CHECKING:
    from specdecodes.benchmark.questions.samples import Benchmark
    from specdecodes.benchmark.sweeps.grid import Measure, Point, Row
    from specdecodes.config import Pipeline


@pipeline_command()
def run_grid_search(
    pipeline: "Pipeline",
    grid: Annotated[
        list[str], typer.Option(metavar="KEY.PATH=VALUE,...", help="A setting and its values. Repeatable.")
    ],
    benchmarks: Benchmarks = "mt-bench",
    max_samples: MaxSamples = None,
    out_dir: Annotated[
        Path | None, typer.Option(help="Folder of the results.", show_default="results/grid-METHOD-MODEL")
    ] = None,
    data_dir: DataDir = None,
    restart: Annotated[
        bool, typer.Option("--restart", help="Drop earlier results of these points instead of going on from them.")
    ] = False,
) -> None:
    """Measure every combination of settings. The same command goes on where a sweep was stopped.

    Writes a folder of results a point, grid.csv with a row a point, and report.html with a heat map.
    """
    from specdecodes.benchmark.questions import load_all
    from specdecodes.benchmark.report import write_grid_report
    from specdecodes.benchmark.sweeps.grid import TABLE, best, parse_axes, points, sweep

    axes = parse_axes(grid)
    chosen = points(pipeline, axes)
    loaded = load_all(benchmarks, data_dir)  # missing questions are an error before the first model is loaded
    folder = out_dir or Path("results") / f"grid-{pipeline.method}-{Path(pipeline.target.model).name}"
    notify, command = plain_lines(Console(stderr=True)), spoken(sys.argv)
    measure = measurer(loaded, benchmarks, data_dir, max_samples, command, restart=restart, notify=notify)
    rows = sweep(chosen, folder, measure, notify)
    report = write_grid_report(axes, rows, folder / "report.html", command)
    Console().print(_table(rows))
    notify(f"Rows: {folder / TABLE}\nReport: {report}")
    if best(rows) is None or any(row.error for row in rows):
        raise typer.Exit(1)


def measurer(
    loaded: "Sequence[Benchmark]",
    benchmarks: str,
    data_dir: Path | None,
    max_samples: int | None,
    command: str,
    *,
    restart: bool,
    notify: Notify,
) -> "Measure":
    """What measures a point of a sweep: what its folder lacks of the benchmarks, in a process of its own."""
    from specdecodes.benchmark.results.journal import drop
    from specdecodes.benchmark.runner import finished

    def measure(point: "Point", where: Path) -> str:
        for benchmark in loaded if restart else ():
            drop(where / benchmark.name)
        found = [finished(one, point.pipeline, where, max_samples=max_samples, notify=notify) for one in loaded]
        if all(summary is not None for summary in found):
            return ""
        return measure_apart(point.pipeline, benchmarks, data_dir, where, max_samples, command)

    return measure


def measure_apart(
    pipeline: "Pipeline", benchmarks: str, data_dir: Path | None, folder: Path, max_samples: int | None, command: str
) -> str:
    """`measure_here` in a process of its own: its memory, its compiled steps and its peak belong to one point."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        try:
            return pool.submit(measure_here, pipeline, benchmarks, data_dir, folder, max_samples, command).result()
        except BrokenProcessPool:
            return "the process was killed, perhaps because memory ran out"


def measure_here(
    pipeline: "Pipeline", benchmarks: str, data_dir: Path | None, folder: Path, max_samples: int | None, command: str
) -> str:
    """Run what `folder` lacks of the benchmarks. Returns an error of ours as text, which crosses processes. Raises
    ResultsError."""
    from specdecodes.benchmark.questions import load_all
    from specdecodes.benchmark.results.records import ResultsError
    from specdecodes.benchmark.runner import run
    from specdecodes.cli.session import opened

    console = Console(stderr=True)
    notify = plain_lines(console)
    try:
        with opened(pipeline, console) as generator:
            for benchmark in load_all(benchmarks, data_dir):
                run(generator, benchmark, pipeline, folder, max_samples=max_samples, command=command, notify=notify)
    except ResultsError:  # results that cannot be kept here cannot be kept at the next point either
        raise
    except SpecDecodesError as error:
        return str(error)
    return ""


def _table(rows: "Sequence[Row]") -> Table:
    """The points, the fastest first."""
    keys, figures = (key for key, _ in rows[0].point.values), ("tokens/s", "95%", "tau", "tokens/round")
    table = ruled("points, the fastest first", *keys, *figures, numbers=figures)
    for row in sorted(rows, key=lambda row: -(row.speed or 0.0)):
        settings = [str(value) for _, value in row.point.values]
        if row.speed is None:
            table.add_row(*settings, "failed", "", "", "")
            continue
        spread = row.figures["tokens_per_second_interval"]
        interval = f"{spread[0]:.2f} to {spread[1]:.2f}" if spread else ""
        table.add_row(
            *settings,
            f"{row.speed:.2f}",
            interval,
            f"{row.figures['tau']:.2f}",
            f"{row.figures['tokens_per_round']:.2f}",
        )
    return table
