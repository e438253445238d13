"""lm-evaluation-harness on a pipeline:

    python -m specdecodes.benchmark.lm_eval --model specdecodes --model_args pipeline=NAME --tasks ...

Registers the model `specdecodes` and hands every argument to lm_eval's own command line. `--model_args` takes a
pipeline's name and any of its settings: `pipeline=NAME,max_length=1024,target.model=FOLDER`.
"""

from __future__ import annotations

import importlib
import sys
from importlib.util import find_spec

from specdecodes.errors import SpecDecodesError

INSTALL = 'pip install "lm_eval==0.4.13"'


def main() -> None:
    """Run lm_eval's command line; 2 is the exit status of an error of the user's."""
    if find_spec("lm_eval") is None:
        print(f"error: the package lm_eval is not installed; it is an extra of its own: {INSTALL}", file=sys.stderr)
        sys.exit(2)
    importlib.import_module("specdecodes.benchmark.harness")  # registers the model
    try:
        importlib.import_module("lm_eval.__main__").cli_evaluate()
    except SpecDecodesError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
