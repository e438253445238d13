"""`run-plan`: what would live where, and how fast that should be, before anything is loaded."""

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from specdecodes.cli.options import pipeline_command
from specdecodes.cli.report import plan_table
from specdecodes.cli.session import PLANNING
from specdecodes.errors import BudgetError
from specdecodes.tables import ruled

if TYPE_CHECKING:
    from specdecodes.config import Pipeline
    from specdecodes.offload.planning.plan import Placement


@pipeline_command()
def run_plan(
    pipeline: "Pipeline",
    explain: Annotated[
        bool, typer.Option("--explain", help="Also show what was not chosen, and how fast that would be.")
    ] = False,
) -> None:
    """Print the memory plan and the speed it predicts; loads no weights."""
    from specdecodes.methods import plan_for

    console = Console()
    with Console(stderr=True).status(PLANNING):
        placement = plan_for(pipeline)
    console.print(plan_table(placement, pipeline))
    if explain:
        with console.status("planning other settings"):
            table = _explanation(placement, pipeline)
        console.print(table)


def _explanation(placement: "Placement", pipeline: "Pipeline") -> Table:
    from specdecodes.methods.choices import others

    table = ruled("not chosen", "alternative", "tokens/s", "why not", numbers=("tokens/s",))
    for other in (*placement.rejected, *others(pipeline, placement)):
        speed = "" if other.tokens_per_second is None else f"{other.tokens_per_second:.3g}"
        table.add_row(other.what, speed, other.why)
    if pipeline.method != "vanilla":
        table.add_row("plain decoding in the same budget", *_plain(pipeline, placement.predicted.tokens_per_second))
    table.add_row("the plan itself", f"{placement.predicted.tokens_per_second:.3g}", "", style="bold")
    return table


def _plain(pipeline: "Pipeline", speed: float) -> tuple[str, str]:
    """How fast plain decoding would be, and how that compares with `speed`."""
    from specdecodes.methods import plan_for

    try:
        plain = plan_for(replace(pipeline, method="vanilla")).predicted.tokens_per_second
    except BudgetError as error:
        return "", str(error)
    if plain >= speed:
        return f"{plain:.3g}", "faster by this estimate: --set method=vanilla tries it"
    return f"{plain:.3g}", f"{speed / plain:.1f} times slower"
