"""`python -m run.main PIPELINE COMMAND [OPTIONS]`: the commands of `specdecodes` on one pipeline, named first."""

from __future__ import annotations

import itertools
import shlex
import shutil
import sys
import textwrap

from specdecodes import pipelines
from specdecodes.cli import fail, main
from specdecodes.errors import ConfigError, reported

USAGE = "bash run.sh PIPELINE COMMAND [OPTIONS]"
WITHOUT_PIPELINE = ("run-compare", "run-report", "run-cache")
"""Commands on result folders, which hold the pipelines that made them, and on what all pipelines share."""
WITH_OR_WITHOUT = ("run-doctor",)


def run(arguments: list[str]) -> None:
    """Hand the command to the common command line, with the pipeline as its `--pipeline`."""
    if not arguments or arguments[0] in ("-h", "--help"):
        with reported():
            print(f"Usage: {USAGE}\n\n{_listed(pipelines.shipped())}\n", flush=True)
        main(["--help"], "bash run.sh PIPELINE")
    name, *rest = arguments
    if name in (*WITHOUT_PIPELINE, *WITH_OR_WITHOUT) or (name.startswith("run-") and _names_a_model(rest)):
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


def _listed(names: list[str]) -> str:
    """Pipelines folder by folder, as wide as the terminal."""
    width, lines = shutil.get_terminal_size().columns, [f"Pipelines, written like {pipelines.DEMO}:"]
    for folder, inside in itertools.groupby(names, lambda name: name.rpartition(".")[0]):
        modules = "  ".join(name.rpartition(".")[2] for name in inside)
        lines += [f"  {folder}.", textwrap.fill(modules, width, initial_indent="    ", subsequent_indent="    ")]
    return "\n".join(lines)


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
