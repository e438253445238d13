"""`run-profile`: a few rounds under the profiler, as a trace to look at and a page to read."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markdown import Markdown

from specdecodes.cli.options import pipeline_command
from specdecodes.cli.session import opened

if TYPE_CHECKING:
    from specdecodes.config import Pipeline

PROMPT = "Write a short essay about the seasons of the year and what people do in each."


@pipeline_command()
def run_profile(
    pipeline: "Pipeline",
    prompt: Annotated[str, typer.Option(help="What to ask.")] = PROMPT,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds to watch, after as many unwatched ones.")] = 4,
    out_dir: Annotated[
        Path | None,
        typer.Option(help="Folder; the profile goes into `profile` there.", show_default="results/METHOD-MODEL"),
    ] = None,
) -> None:
    """Trace a few rounds: draft levels, streamed layers, verify and commit, for Perfetto or chrome://tracing.

    Writes trace.json.gz, profile.md with the top costs, and the timeline that run-report shows. A watched round is
    slower, so no speed is taken from it.
    """
    from dataclasses import replace

    from specdecodes.benchmark.profile import FOLDER, SUMMARY, TRACE, record

    folder = (out_dir or Path("results") / f"{pipeline.method}-{Path(pipeline.target.model).name}") / FOLDER
    console = Console(stderr=True)
    with opened(pipeline, console) as generator:
        params = replace(pipeline.sampling, ignore_eos=True, stop=())  # the rounds count, not where the answer ends
        record(generator, [{"role": "user", "content": prompt}], params, folder, rounds=rounds)
    Console().print(Markdown((folder / SUMMARY).read_text(encoding="utf-8")))
    console.print(f"Trace: {folder / TRACE} (open it in https://ui.perfetto.dev)", highlight=False, markup=False)
