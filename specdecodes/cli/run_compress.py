"""`run-compress`: a second, smaller copy of the layers that a plan streams from disk."""

from typing import TYPE_CHECKING

from rich.console import Console

from specdecodes.cli.options import pipeline_command
from specdecodes.cli.progress import plain_lines
from specdecodes.errors import ConfigError

if TYPE_CHECKING:
    from specdecodes.config import Pipeline


@pipeline_command()
def run_compress(pipeline: "Pipeline") -> None:
    """Write losslessly compressed copies of the layers that stream from disk; plans use them where that is faster.

    Of layers that have a substitute, they hold what that does not say; with --set memory.compress=alone, everything,
    for any method. The size is told before anything is written. `run-cache clear compressed` removes them.
    """
    from specdecodes.methods import compress
    from specdecodes.models.loading import open_checkpoint
    from specdecodes.units import format_bytes

    tell = plain_lines(Console(stderr=True))
    kept = compress(pipeline, progress=tell)
    if not kept:
        raise ConfigError("nothing streams from disk in this plan, so there is nothing to compress; see run-plan.")
    checkpoint = open_checkpoint(pipeline.target.model, pipeline.target.revision)
    whole = sum(span.nbytes for layer in kept for span in checkpoint.layer(layer).values())
    size = sum(layer.nbytes for layer in kept.values())
    sizes = f"{format_bytes(size)} for {format_bytes(whole)} ({size / whole:.1%})"
    tell(f"{len(kept)} layers take {sizes} in {next(iter(kept.values())).path.parent}")
