"""The command line: `specdecodes COMMAND` when installed, `bash run.sh PIPELINE COMMAND` in a clone."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import NoReturn

from specdecodes.cli.app import app
from specdecodes.errors import fail, reported

__all__ = ["fail", "main"]


def main(arguments: Sequence[str] | None = None, program: str = "specdecodes") -> NoReturn:
    """Run one command and leave the process: 0 done, 1 a check failed, 2 an error of the user's, 130 interrupted."""
    with reported():
        app(args=None if arguments is None else list(arguments), prog_name=program)
    sys.exit(0)
