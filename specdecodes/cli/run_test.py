"""`run-test`: one prompt, its answer as it is written, and every metric of it."""

import sys
from textwrap import shorten
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from specdecodes.cli.options import pipeline_command
from specdecodes.cli.report import measured, metrics_table, prediction_table
from specdecodes.cli.session import answer, opened

if TYPE_CHECKING:
    from specdecodes.config import Pipeline

PROMPT = "Write a short story about a lighthouse keeper who befriends a whale."


@pipeline_command()
def run_test(
    pipeline: "Pipeline",
    prompt: Annotated[str, typer.Option(help="What to ask.")] = PROMPT,
    raw: Annotated[
        bool, typer.Option("--raw", help="Continue the prompt as plain text, without chat template.")
    ] = False,
) -> None:
    """Answer one prompt; print the text and every metric."""
    from specdecodes.methods import learn

    console = Console(stderr=True)
    with opened(pipeline, console) as generator:
        console.rule(f"{generator.method} · {generator.model_name}", align="left")
        console.print(shorten(prompt, 400, placeholder=" ..."), style="dim", highlight=False, markup=False)
        request = prompt if raw else [{"role": "user", "content": prompt}]
        generation = answer(generator, request, pipeline.sampling)
        if generation.tokens:
            summary = measured([generation])
            console.print(metrics_table([generation], "this answer"))
            console.print(prediction_table(summary, generator.placement))
            learn(pipeline, generator.placement, summary, generator.habits)
    if generation.finish_reason == "interrupted":
        print("interrupted", file=sys.stderr)
        raise typer.Exit(130)
