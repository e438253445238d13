"""Errors that a user sees. Every message names the cause and the cure."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from difflib import get_close_matches
from typing import NoReturn


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


def suggest(kind: str, name: str, known: Iterable[str]) -> str:
    """Text for an unknown name: `unknown method 'subspek_sd'; did you mean 'subspec_sd'? known: ...`."""
    names = sorted(known)
    near = get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f"; did you mean '{near[0]}'?" if near else "."
    return f"unknown {kind} '{name}'{hint} Known: {', '.join(names)}."


def fail(error: SpecDecodesError) -> NoReturn:
    """Say in one line what went wrong and leave with 2."""
    sys.stdout.flush()
    print(f"error: {error}", file=sys.stderr)
    sys.exit(2)
