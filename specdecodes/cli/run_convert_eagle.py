"""`run-convert-eagle`: an EAGLE head as its authors published it becomes a head folder."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from specdecodes.cli.options import pipeline_command

if TYPE_CHECKING:
    from specdecodes.config import Pipeline


@pipeline_command()
def run_convert_eagle(
    pipeline: "Pipeline",
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="Folder or hub id of the published head.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="New folder.")],
) -> None:
    """Convert a published EAGLE head (.bin or safetensors), each tensor checked against the target's config (--model).

    Without this a published head runs too; a converted one is checked once and read in place.
    """
    from specdecodes.train.convert_eagle import convert, describe

    spec = convert(source, out, pipeline.target.model)
    Console().print(f"{out}: {describe(spec)}", highlight=False, soft_wrap=True)
