"""`run-convert-checkpoint`: a checkpoint that was quantized elsewhere, in the form that streams."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from specdecodes.cli.options import pipeline_command
from specdecodes.cli.progress import plain_lines

if TYPE_CHECKING:
    from specdecodes.config import Pipeline


@pipeline_command()
def run_convert_checkpoint(
    pipeline: "Pipeline",
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="Folder or hub id of the quantized checkpoint.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="New folder.")],
) -> None:
    """Convert a quantized checkpoint so that it can stream, for this machine or for target.device.

    Shards keep their names; a conversion that was stopped goes on where it was. No weight is rounded again.
    """
    from specdecodes.methods.measured.machine import find_device
    from specdecodes.methods.weights.conversion import convert_checkpoint
    from specdecodes.units import format_bytes

    tell = plain_lines(Console(stderr=True))
    asked = pipeline.target.device.partition(":")[0]
    device = find_device("auto").type if asked == "auto" else asked
    done = convert_checkpoint(source, out, device, tell)
    tell(
        f"{out}: {format_bytes(done.nbytes)} for the {done.kernel} kernel, {done.written} shards written, "
        f"{done.kept} there already"
    )
