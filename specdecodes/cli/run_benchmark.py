"""`run-benchmark`: the same questions for every method, every answer kept, and the figures."""

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from specdecodes.cli.options import pipeline_command
from specdecodes.cli.report import prediction_table
from specdecodes.cli.session import opened

if TYPE_CHECKING:
    from specdecodes.config import Pipeline


@pipeline_command()
def run_benchmark(
    pipeline: "Pipeline",
    benchmarks: Annotated[str, typer.Option(metavar="NAME,...", help="Benchmarks, separated by commas.")] = "mt-bench",
    max_samples: Annotated[
        int | None, typer.Option(min=1, help="Ask that many questions.", show_default="all of them")
    ] = None,
    out_dir: Annotated[
        Path | None, typer.Option(help="Folder of the results.", show_default="results/METHOD-MODEL")
    ] = None,
    data_dir: Annotated[
        Path | None, typer.Option(help="Folder with the questions.", show_default="the hub, else the bundled ones")
    ] = None,
    restart: Annotated[
        bool, typer.Option("--restart", help="Drop earlier results in the folder instead of going on from them.")
    ] = False,
) -> None:
    """Ask benchmark questions, keep every answer and the figures. The same command goes on where a run was stopped."""
    from specdecodes.benchmark import load
    from specdecodes.benchmark.report import progress_line, summary_table
    from specdecodes.benchmark.runner import finished, run

    loaded = [load(name.strip(), data_dir) for name in benchmarks.split(",")]
    folder = out_dir or Path("results") / f"{pipeline.method}-{Path(pipeline.target.model).name}"
    console, out = Console(stderr=True), Console()

    def notify(line: str) -> None:
        console.print(line, highlight=False, markup=False)

    if restart:
        for benchmark in loaded:
            _drop(folder / benchmark.name)
    waiting, failed = [], False
    for benchmark in loaded:  # before a model is loaded: results of other settings are refused, finished ones are shown
        summary = finished(benchmark, pipeline, folder, max_samples=max_samples, notify=notify)
        if summary is None:
            waiting.append(benchmark)
            continue
        out.print(summary_table(summary))
        out.print(f"Finished before: {folder / benchmark.name} (--restart asks again)", highlight=False)
    if not waiting:
        return
    with opened(pipeline, console) as generator:
        for benchmark in waiting:
            with progress_line(console) as progress:
                summary = run(
                    generator,
                    benchmark,
                    pipeline,
                    folder,
                    max_samples=max_samples,
                    command=spoken(sys.argv),
                    notify=notify,
                    progress=progress,
                )
            out.print(summary_table(summary))
            out.print(prediction_table(summary, generator.placement))
            out.print(f"Answers and figures: {folder / benchmark.name}", highlight=False)
            failed = failed or bool(summary["failed"])
    if failed:
        raise typer.Exit(1)


def spoken(arguments: list[str]) -> str:
    """The command as the user can say it again."""
    program = Path(arguments[0])
    words = ["bash", "run.sh"] if program.parts[-2:] == ("run", "main.py") else [program.name]
    return shlex.join([*words, *arguments[1:]])


def _drop(folder: Path) -> None:
    for name in ("samples.jsonl", "settings.json", "summary.json"):
        (folder / name).unlink(missing_ok=True)
