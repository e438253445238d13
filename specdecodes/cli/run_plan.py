"""`run-plan`: what would live where, and how fast that should be, before anything is loaded."""

from typing import TYPE_CHECKING

from rich.console import Console

from specdecodes.cli.options import pipeline_command
from specdecodes.cli.report import plan_table

if TYPE_CHECKING:
    from specdecodes.config import Pipeline


@pipeline_command()
def run_plan(pipeline: "Pipeline") -> None:
    """Print the memory plan and the speed it predicts; loads no weights."""
    from specdecodes.methods import plan_for

    Console().print(plan_table(plan_for(pipeline), pipeline))
