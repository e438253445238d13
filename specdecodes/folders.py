"""Where the project keeps what it made on this machine, and how a file is written that others may be reading."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from fcntl import LOCK_EX, LOCK_NB, flock
from glob import escape
from pathlib import Path
from typing import Any, BinaryIO
from uuid import uuid4

from specdecodes.errors import ConfigError

ABANDONED = 60.0  # seconds: a file is locked at once after it was made


def cache_folder() -> Path:
    """Where kernels, compiled steps, quantized weights and measurements are kept:
    $SPECDECODES_CACHE, else $XDG_CACHE_HOME/specdecodes, else ~/.cache/specdecodes.

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


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A new file that takes the place of `path` when the block ends: readers see the old one or all of the new, after a
    crash too, and a failure leaves nothing behind; what a kill left is removed the next time. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(path)
    partial = path.with_name(f".{path.stem}.{uuid4().hex}.part")
    try:
        with partial.open("xb") as file:
            with suppress(OSError):  # a file system without locks
                flock(file, LOCK_EX)
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _remove_abandoned(path: Path) -> None:
    """Beginnings of `path` that nobody is writing any more: their process would hold a lock on them."""
    for partial in path.parent.glob(f".{escape(path.stem)}.*.part"):
        with suppress(OSError), partial.open("rb") as file:
            if time.time() - partial.stat().st_mtime > ABANDONED:
                flock(file, LOCK_EX | LOCK_NB)
                partial.unlink()


def remember(path: Path, entries: Mapping[str, Any]) -> None:
    """Keep `entries` at `path`, as JSON; where it cannot be written, what they say is found out anew next time."""
    with suppress(OSError), replacing(path) as file:
        file.write(json.dumps(entries).encode())


def remembered(path: Path) -> dict[str, Any]:
    """What `remember` kept there last; nothing where the file is missing or broken."""
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return entries if isinstance(entries, dict) else {}
