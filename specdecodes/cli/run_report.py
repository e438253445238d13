"""`run-report`: result folders side by side on one page, and their figures for papers."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console


def run_report(
    folders: Annotated[
        list[Path], typer.Argument(metavar="DIR...", help="Result folders; others are held against the first.")
    ],
    out: Annotated[Path | None, typer.Option(help="The page.", show_default="report.html in the first folder")] = None,
    png: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Also write the figures there, for papers (matplotlib).")
    ] = None,
) -> None:
    """Write one self-contained HTML page that shows which method is faster, and why."""
    from specdecodes.benchmark.report import write_plates, write_report

    console = Console()
    console.print(f"Report: {write_report(folders, out or folders[0] / 'report.html')}", highlight=False)
    if png is not None:
        names = ", ".join(path.name for path in write_plates(folders, png))
        console.print(f"Figures: {names} in {png}", highlight=False)
