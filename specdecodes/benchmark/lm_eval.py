"""lm-evaluation-harness on a pipeline:

    python -m specdecodes.benchmark.lm_eval --model specdecodes --model_args pipeline=NAME --tasks ...

Registers the model `specdecodes` and hands every argument to lm_eval's own command line. `--model_args` takes a
pipeline's name and any of its settings: `pipeline=NAME,max_length=1024,target.model=FOLDER`.
"""

from __future__ import annotations

import importlib

from specdecodes.errors import ConfigError, reported
from specdecodes.extras import extra

INSTALL = 'pip install "lm_eval==0.4.13"'


@reported()
def main() -> None:
    """Run lm_eval's command line; 2 is the exit status of an error of the user's."""
    extra("lm_eval", ConfigError(f"the package lm_eval is not installed; it is an extra of its own: {INSTALL}"))
    importlib.import_module("specdecodes.benchmark.harness")  # registers the model
    importlib.import_module("lm_eval.__main__").cli_evaluate()


if __name__ == "__main__":
    main()
