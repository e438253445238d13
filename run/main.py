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
    if name in WITHOUT_PIPELINE or (name.startswith("run-") and _names_a_model(rest)):
        main(arguments, "bash run.sh")
    if name.startswith(("-", "run-")):
        fail(_misplaced(name))
    try:
        pipelines.check(name)
    except ConfigError as error:
        fail(error)
    if not rest or rest[0].startswith("-"):
        main(["--help"], f"bash run.sh {name}")
    if rest[0] in WITHOUT_PIPELINE:
        fail(ConfigError(f"{rest[0]} takes no pipeline; write bash run.sh {shlex.join(rest)}"))
    main([rest[0], "--pipeline", name, *rest[1:]], f"bash run.sh {name}")


def _names_a_model(options: list[str]) -> bool:
    """Whether a general pipeline is meant: SubSpec on the model that is named."""
    return any(option == "--model" or option.startswith("--model=") for option in options)


def _misplaced(name: str) -> ConfigError:
    command = name if name.startswith("run-") else "run-test"
    return ConfigError(
        f"'{name}' stands where a pipeline belongs; write {USAGE}, such as bash run.sh {pipelines.DEMO} {command}, "
        f"or name a model: bash run.sh {command} --model FOLDER"
    )


if __name__ == "__main__":
    run(sys.argv[1:])
