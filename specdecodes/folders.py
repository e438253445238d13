"""Where the project keeps what it made on this machine: kernels, compiled steps, quantized weights, measurements."""

from __future__ import annotations

import os
from pathlib import Path

from specdecodes.errors import ConfigError


def cache_folder() -> Path:
    """$SPECDECODES_CACHE, else $XDG_CACHE_HOME/specdecodes, else ~/.cache/specdecodes.

    Raises ConfigError for a user without a home.
    """
    own, shared = os.environ.get("SPECDECODES_CACHE"), os.environ.get("XDG_CACHE_HOME")
    try:
        if own:
            return Path(own).expanduser()
        return (Path(shared) if shared else Path.home() / ".cache") / "specdecodes"
    except RuntimeError as error:
        raise ConfigError(
            "this user has no home folder to keep quantized weights and kernels in; set SPECDECODES_CACHE to a folder."
        ) from error
