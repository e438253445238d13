"""The table of commands. Nothing here or in a command's imports may load torch: `--help` answers at once."""

from __future__ import annotations

import sys
from typing import Any

import typer
from typer.core import TyperGroup

from specdecodes import __version__
from specdecodes.cli.run_benchmark import run_benchmark
from specdecodes.cli.run_benchmark_precision import run_benchmark_precision
from specdecodes.cli.run_cache import run_cache
from specdecodes.cli.run_chat import run_chat
from specdecodes.cli.run_compare import run_compare
from specdecodes.cli.run_compress import run_compress
from specdecodes.cli.run_convert_checkpoint import run_convert_checkpoint
from specdecodes.cli.run_convert_eagle import run_convert_eagle
from specdecodes.cli.run_doctor import run_doctor
from specdecodes.cli.run_grid_search import run_grid_search
from specdecodes.cli.run_perplexity import run_perplexity
from specdecodes.cli.run_plan import run_plan
from specdecodes.cli.run_profile import run_profile
from specdecodes.cli.run_report import run_report
from specdecodes.cli.run_test import run_test
from specdecodes.cli.run_tune import run_tune
from specdecodes.cli.run_verify import run_verify


class Commands(TyperGroup):
    """Ctrl-C ends any of them with one line and 130."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            raise typer.Exit(130) from None


app = typer.Typer(
    cls=Commands,
    help="Lossless speculative decoding for models that do not fit in memory: the full-precision model's own answers, "
    "several tokens for each pass over its weights.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

for command in (
    run_test,
    run_chat,
    run_benchmark,
    run_compare,
    run_plan,
    run_compress,
    run_verify,
    run_report,
    run_grid_search,
    run_tune,
    run_profile,
    run_convert_checkpoint,
    run_convert_eagle,
    run_perplexity,
    run_benchmark_precision,
    run_cache,
    run_doctor,
):
    # Paragraphs as one line each: rich would keep the source's line breaks on a narrower terminal.
    app.command(help="\n\n".join(" ".join(part.split()) for part in (command.__doc__ or "").split("\n\n")))(command)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"specdecodes {__version__}")
        raise typer.Exit


@app.callback()
def _front(
    version: bool = typer.Option(False, "--version", callback=_print_version, is_eager=True, help="Print the version."),
) -> None:
    pass
