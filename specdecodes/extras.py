"""Packages that only some users need: imported where they are first used."""

from __future__ import annotations

import importlib
from types import ModuleType

from specdecodes.errors import SpecDecodesError


def extra(module: str, missing: SpecDecodesError) -> ModuleType:
    """Import `module`; raises `missing`, which says how to install it, where that fails."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise missing from error
