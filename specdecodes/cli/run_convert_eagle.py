"""`run-convert-eagle`: an EAGLE head becomes a head folder, for the target that it was trained on or a rotated form."""

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
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="Folder or hub id of the head.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="New folder.")],
    rotation: Annotated[
        str | None,
        typer.Option(
            "--rotation",
            metavar="ORIGINAL",
            help="The model that the head was trained on, where --model is a rotated form of it (QuaRot, QQQ, QoQ).",
            show_default=False,
        ),
    ] = None,
    matrix: Annotated[
        Path | None,
        typer.Option(
            "--matrix",
            metavar="FILE",
            help="The rotation matrix (safetensors or .pt); without it the two embeddings tell it.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Convert a published EAGLE head (.bin or safetensors), each tensor checked against the target's config (--model).

    Without this a published head runs too; a converted one is checked once and read in place. With --rotation a head,
    published or not, is made one for a rotated target; nothing is trained again.
    """
    from specdecodes.train.convert_eagle import convert, describe

    spec = convert(source, out, pipeline.target.model, rotation, matrix)
    Console().print(f"{out}: {describe(spec)}", highlight=False, markup=False, soft_wrap=True)
