"""`run-doctor`: what this machine offers, what is missing, and how fast its disk and memory are."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from specdecodes.cli.options import pipeline_command
from specdecodes.errors import ConfigError

if TYPE_CHECKING:
    from specdecodes.cli.machine import Finding
    from specdecodes.config import Pipeline


@pipeline_command(optional=True)
def run_doctor(
    pipeline: "Pipeline | None",
    folder: Annotated[
        Path | None, typer.Option(help="Folder whose disk is measured.", show_default="the model's, or this one")
    ] = None,
) -> None:
    """Show what was found: versions, CPU, GPUs, memory, extras, and the measured speed of disk and memory."""
    if folder is not None and not folder.is_dir():
        raise ConfigError(f"{folder} is not a folder; give --folder the place whose disk is to be measured.")
    console = Console()
    with console.status("looking around"):
        from specdecodes.cli import machine

        place = (folder or _model_folder(pipeline) or Path.cwd()).resolve()
        sections = {
            "Software": list(machine.software()),
            "Processor": list(machine.processor()),
            "Accelerators": list(machine.accelerators()),
            "Kept": list(machine.kept()),
        }
    for title, findings in sections.items():
        console.print(_table(title, findings))
    with console.status(f"timing {place} and the memory"):
        measured = list(machine.speeds(place))
    console.print(_table("Speed", measured))
    if any(finding.ok is False for finding in (*measured, *(f for rows in sections.values() for f in rows))):
        console.print("[red]Something needed is missing: see the lines marked ✗.[/red]")
        raise typer.Exit(1)


def _model_folder(pipeline: "Pipeline | None") -> Path | None:
    folder = Path(pipeline.target.model) if pipeline is not None else Path()
    return folder if pipeline is not None and folder.is_dir() else None


def _table(title: str, findings: "list[Finding]") -> Table:
    table = Table(
        title=f"\n{title}", title_justify="left", title_style="bold", show_header=False, box=None, pad_edge=False
    )
    table.add_column(width=1)
    table.add_column(min_width=14, style="bold")
    table.add_column(overflow="fold")
    for finding in findings:
        mark = {True: "[green]✓[/green]", False: "[red]✗[/red]", None: "[dim]·[/dim]"}[finding.ok]
        advice = f"  [yellow]{finding.advice}[/yellow]" if finding.advice else ""
        table.add_row(mark, finding.name, finding.found + advice)
    return table
