"""`run-benchmark`: the same questions for every method, every answer kept, and the figures."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from specdecodes.cli.options import Benchmarks, DataDir, MaxSamples, pipeline_command, spoken
from specdecodes.cli.progress import followed, plain_lines, write_line
from specdecodes.cli.report import prediction_table
from specdecodes.cli.session import opened
from specdecodes.notify import Notify

if TYPE_CHECKING:
    from specdecodes.benchmark.questions import Benchmark
    from specdecodes.config import Pipeline
    from specdecodes.offload.planning.plan import Placement


@pipeline_command()
def run_benchmark(
    pipeline: "Pipeline",
    benchmarks: Benchmarks = "mt-bench",
    max_samples: MaxSamples = None,
    out_dir: Annotated[
        Path | None, typer.Option(help="Folder of the results.", show_default="results/METHOD-MODEL")
    ] = None,
    data_dir: DataDir = None,
    score: Annotated[
        bool, typer.Option("--score", help="Hold answers against the right ones, where a benchmark has them.")
    ] = False,
    allow_code_execution: Annotated[
        bool,
        typer.Option("--allow-code-execution", help="Let --score run the code that the model wrote (human-eval)."),
    ] = False,
    restart: Annotated[
        bool,
        typer.Option("--restart", help="Drop earlier results in the folder and ask again what was already answered."),
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Write JSON lines to standard output instead of tables.")
    ] = False,
) -> None:
    """Ask benchmark questions, keep every answer and the figures.

    The same command goes on where a run was stopped; what is already answered is not asked again, unless with
    --restart.
    """
    from specdecodes.benchmark.questions import load_all
    from specdecodes.benchmark.results.journal import drop
    from specdecodes.benchmark.runner import finished

    console = Console(stderr=True)
    notify = plain_lines(console)
    folder = out_dir or Path("results") / f"{pipeline.method}-{Path(pipeline.target.model).name}"
    waiting = []
    for benchmark in load_all(benchmarks, data_dir):
        # Before a model is loaded: results of other settings are refused, finished ones are shown.
        if restart:
            drop(folder / benchmark.name)
        scored = score and _can_score(benchmark, allow_code_execution, notify)
        summary = finished(benchmark, pipeline, folder, max_samples=max_samples, score=scored, notify=notify)
        if summary is None:
            waiting.append((benchmark, scored))
            continue
        _show(summary, None, as_json=as_json)
        notify(f"{benchmark.name}: nothing was asked, {folder / benchmark.name} is complete (--restart asks again)")
    if not waiting:
        return
    failed = _ask(pipeline, waiting, folder, max_samples, console, as_json=as_json)
    _report(folder, notify)
    if failed:
        raise typer.Exit(1)


def _ask(
    pipeline: "Pipeline",
    waiting: "Sequence[tuple[Benchmark, bool]]",
    folder: Path,
    max_samples: int | None,
    console: Console,
    *,
    as_json: bool,
) -> int:
    """Run benchmarks, each with whether it is scored; returns how many samples failed."""
    from specdecodes.benchmark.runner import run
    from specdecodes.methods import learn

    notify, command, failed = plain_lines(console), spoken(sys.argv), 0
    with opened(pipeline, console) as generator:
        for benchmark, scored in waiting:
            with followed(console, as_json=as_json) as watch:
                summary = run(
                    generator,
                    benchmark,
                    pipeline,
                    folder,
                    max_samples=max_samples,
                    command=command,
                    score=scored,
                    notify=notify,
                    watch=watch,
                )
            _show(summary, generator.placement, as_json=as_json)
            learn(pipeline, generator.placement, summary, generator.habits)
            notify(f"Answers and figures: {folder / benchmark.name}")
            failed += len(summary["failed"])
    return failed


def _report(folder: Path, notify: Notify) -> None:
    """Write the page of all results in `folder`, unless nothing was answered."""
    from specdecodes.benchmark.report import write_report
    from specdecodes.benchmark.results.reading import find_results

    if any(results.done for results in find_results(folder).values()):
        notify(f"Report: {write_report([folder], folder / 'report.html')}")


def _can_score(benchmark: "Benchmark", allow_code_execution: bool, notify: Notify) -> bool:
    """Whether answers of `benchmark` will be scored; says why not."""
    if benchmark.score is None:
        notify(f"{benchmark.name}: not scored, it has no right answers to hold others against")
        return False
    if benchmark.runs_code and not allow_code_execution:
        notify(f"{benchmark.name}: not scored, that runs code the model wrote; --allow-code-execution lets it")
        return False
    if benchmark.runs_code:
        from specdecodes.benchmark.questions.execution import warning

        notify(f"{benchmark.name}: WARNING, {warning()}")
    benchmark.check_scoring()
    return True


def _show(summary: dict[str, Any], placement: "Placement | None", *, as_json: bool) -> None:
    """The figures of one benchmark, on standard output."""
    from specdecodes.benchmark.results.table import category_table, figures_table

    if as_json:
        write_line("summary", summary)
        return
    out = Console()
    out.print(figures_table(summary, f"{summary['benchmark']}: {summary['method']} on {summary['model']}"))
    categories = category_table(summary)
    if categories is not None:
        out.print(categories)
    if placement is not None:
        out.print(prediction_table(summary, placement))
