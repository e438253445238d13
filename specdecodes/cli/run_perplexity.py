"""`run-perplexity`: how well the target predicts a text file."""

import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from specdecodes.cli.options import pipeline_command, spoken
from specdecodes.cli.progress import write_line
from specdecodes.tables import ruled

if TYPE_CHECKING:
    from specdecodes.benchmark.perplexity import Perplexity
    from specdecodes.config import Pipeline
    from specdecodes.generator import Generator


@pipeline_command()
def run_perplexity(
    pipeline: "Pipeline",
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A text file in UTF-8.")],
    window: Annotated[
        int | None, typer.Option(min=2, help="Tokens that the model sees at a time.", show_default="the context")
    ] = None,
    stride: Annotated[
        int | None, typer.Option(min=1, help="Tokens from one window to the next.", show_default="half a window")
    ] = None,
    tokens: Annotated[
        int | None, typer.Option(min=2, help="Read that many tokens of the text.", show_default="all of them")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Write one JSON object instead of the table.")] = False,
) -> None:
    """Score a text: perplexity, nats and bits per byte of the target, whatever the method."""
    from specdecodes.benchmark import environment
    from specdecodes.benchmark.perplexity import perplexity, read_text
    from specdecodes.cli.session import opened

    text = read_text(file)
    console = Console(stderr=True)
    # The target alone is asked, so nothing is spent on a draft.
    with opened(replace(pipeline, method="vanilla"), console) as generator, console.status("scoring") as status:

        def show(done: int, total: int) -> None:
            status.update(f"window {done} of {total}")

        found = perplexity(generator, text, window=window, stride=stride, most=tokens, watch=show)
        setting = _setting(generator)
    if as_json:
        about = {"file": str(file), "how": found.how, "target": setting, "command": spoken(sys.argv)}
        write_line("perplexity", asdict(found) | found.figures | about | {"environment": environment.describe()})
        return
    out = Console()
    out.print(_table(found, setting, file))
    out.print(found.how, style="dim", highlight=False)


def _setting(generator: "Generator") -> str:
    """What was scored, in words."""
    origin = generator.origin
    streamed = ", streamed" if generator.placement.streamed else ""
    return f"{origin.model}, {origin.dtype}{', exact' if origin.exact else ''}{streamed}"


def _table(found: "Perplexity", setting: str, file: Path) -> Table:
    table = ruled(f"{file.name} under {setting}", "measured", "value", numbers=("value",))
    for name, value in found.figures.items():
        table.add_row(name.replace("_", " "), f"{value:.4f}")
    table.add_row("tokens", f"{found.tokens:,}")
    table.add_row("bytes", f"{found.nbytes:,}")
    table.add_row("seconds", f"{found.seconds:.1f}")
    return table
