"""`python -m run.main PIPELINE COMMAND [OPTIONS]`: the commands of `specdecodes` on one pipeline, named first."""

from __future__ import annotations

import shlex
import sys

from specdecodes import pipelines
from specdecodes.cli import fail, main
from specdecodes.errors import ConfigError

USAGE = "bash run.sh PIPELINE COMMAND [OPTIONS]"
WITHOUT_PIPELINE = ("run-compare", "run-report", "run-cache")
"""Commands on result folders, which hold the pipelines that made them, and on what all pipelines share."""


def run(arguments: list[str]) -> None:
    """Hand the command to the common command line, with the pipeline as its `--pipeline`."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(f"Usage: {USAGE}\n\nPipelines:\n  " + "\n  ".join(pipelines.shipped()) + "\n")
        main(["--help"], "bash run.sh PIPELINE")
    name, *rest = arguments
    if name in WITHOUT_PIPELINE:
        main(arguments, "bash run.sh")
    if name.startswith(("-", "run-")):
        fail(ConfigError(f"'{name}' stands where a pipeline belongs; write {USAGE}, such as: {_example(name)}"))
    try:
        pipelines.check(name)
    except ConfigError as error:
        fail(error)
    if not rest or rest[0].startswith("-"):
        main(["--help"], f"bash run.sh {name}")
    if rest[0] in WITHOUT_PIPELINE:
        fail(ConfigError(f"{rest[0]} takes no pipeline; write bash run.sh {shlex.join(rest)}"))
    main([rest[0], "--pipeline", name, *rest[1:]], f"bash run.sh {name}")


def _example(command: str) -> str:
    return f"bash run.sh {pipelines.DEMO} {command if command.startswith('run-') else 'run-test'}"


if __name__ == "__main__":
    run(sys.argv[1:])
