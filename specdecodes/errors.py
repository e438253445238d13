"""Errors that a user sees. Every message names the cause and the cure."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from collections.abc import Iterable, Iterator
from difflib import get_close_matches
from typing import NoReturn

LISTED = 20
"""Names that one line lists."""


class SpecDecodesError(Exception):
    """Base of all errors that are the user's to mend; the commands print it in one line and exit with 2."""


class ConfigError(SpecDecodesError):
    """A setting that does not exist or cannot hold."""


class CheckpointError(SpecDecodesError):
    """A checkpoint that is missing, cut, or inconsistent."""


class UnsupportedModelError(SpecDecodesError):
    """An architecture that no family describes."""


class BudgetError(SpecDecodesError):
    """A memory budget that cannot work; `shortfall_bytes` says by how much."""

    def __init__(self, message: str, shortfall_bytes: int) -> None:
        super().__init__(message)
        self.shortfall_bytes = shortfall_bytes


class StreamError(SpecDecodesError):
    """Weights that could not be read while a request ran. The engine stays usable."""


class ContextOverflowError(SpecDecodesError):
    """A prompt that does not fit the context."""


class CompileError(SpecDecodesError):
    """A step that torch.compile could not build."""


class QuantError(SpecDecodesError):
    """A weight that a quantization scheme cannot represent."""


class NumericsError(SpecDecodesError):
    """A model that computed NaN or infinity."""


FULL = (errno.ENOSPC, errno.EDQUOT)
UNWRITABLE = (*FULL, errno.EROFS, errno.EACCES, errno.EPERM)
"""Errors of the system that are the disk's, not the program's."""


class DiskError(SpecDecodesError):
    """A file or folder that the system refuses: the disk is full, read-only, or not ours."""

    def __init__(self, error: OSError) -> None:
        cure = "free some space" if error.errno in FULL else "change who may write there"
        super().__init__(
            f"{error.filename or 'a file'}: {error.strerror}; {cure}, or choose another folder (--out-dir for "
            "results, SPECDECODES_CACHE for what is kept, TMPDIR for what is not)."
        )


def suggest(kind: str, name: str, known: Iterable[str]) -> str:
    """Text for an unknown name: `unknown method 'subspek_sd'; did you mean 'subspec_sd'? Known: ...`.

    Of more than `LISTED` names only the nearest are told, or the first where none is near.
    """
    names = sorted(known)
    few = len(names) <= LISTED
    near = [f"'{each}'" for each in get_close_matches(name, names, n=1 if few else 3, cutoff=0.5)]
    if near:
        hint = f"; did you mean {' or '.join(near)}?"
        return f"unknown {kind} '{name}'{hint}" + (f" Known: {', '.join(names)}." if few else "")
    rest = "" if few else f" and {len(names) - LISTED} more"
    return f"unknown {kind} '{name}'. Known: {', '.join(names[:LISTED])}{rest}."


def fail(error: SpecDecodesError) -> NoReturn:
    """Say in one line what went wrong and leave with 2."""
    sys.stdout.flush()
    print(f"error: {error}", file=sys.stderr)
    sys.exit(2)


@contextlib.contextmanager
def reported(stopped: str = "interrupted") -> Iterator[None]:
    """Around a command: our errors and the disk's end it as `fail` does, Ctrl-C with the line `stopped` and 130, a
    standard output that nobody reads with 1."""
    try:
        yield
    except SpecDecodesError as error:
        fail(error)
    except BrokenPipeError:  # nobody reads any more: `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python says so once more at its end
        sys.exit(1)
    except OSError as error:
        if error.errno not in UNWRITABLE:
            raise
        fail(DiskError(error))
    except ImportError as error:
        if not isinstance(error.__cause__, KeyboardInterrupt):
            raise
        _interrupted(stopped)  # Transformers makes of Ctrl-C a module that is not there
    except KeyboardInterrupt:
        _interrupted(stopped)


def _interrupted(line: str) -> NoReturn:
    print(line, file=sys.stderr)
    sys.exit(130)
