"""Pipelines by name: a dotted module, or the path of a Python file, with a `Pipeline` called `pipeline` in it."""

from __future__ import annotations

import importlib
import runpy
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from specdecodes.errors import ConfigError, suggest

if TYPE_CHECKING:
    from specdecodes.config import Pipeline

DEMO = "run.exp_offloading.subspec_sd_demo"


def clone_root() -> Path | None:
    """The folder that holds both this package and `run/`, or None when the package is installed without them."""
    root = Path(__file__).resolve().parents[1]
    return root if (root / "run" / "exp_offloading").is_dir() else None


def shipped() -> list[str]:
    """Dotted names of the clone's pipeline modules, read without importing them."""
    root = clone_root()
    if root is None:
        return []
    modules = (path for path in root.glob("run/*/*.py") if "\npipeline = " in path.read_text(encoding="utf-8"))
    return sorted(".".join(path.relative_to(root).with_suffix("").parts) for path in modules)


def check(name: str) -> None:
    """Refuse a name that leads nowhere, without importing the module it means."""
    if name not in shipped() and not _module_file(name).is_file():
        if name.endswith(".py"):
            raise ConfigError(f"there is no file {name}; give a .py file that holds a pipeline, or a module.")
        if clone_root() is None:
            raise ConfigError(
                f"there is no pipeline {name} here: pipelines come with a clone of the project; name a model with "
                "--model, or a .py file that holds a pipeline."
            )
        raise ConfigError(suggest("pipeline", name, shipped()))


def load(name: str) -> Pipeline:
    """The pipeline of that name. Raises ConfigError for an unknown name and for a module without a pipeline."""
    from specdecodes.config import Pipeline

    check(name)
    pipeline = _variables(name).get("pipeline")
    if not isinstance(pipeline, Pipeline):
        raise ConfigError(f"{name} has no Pipeline called 'pipeline'; see run/exp_offloading for examples.")
    return pipeline


def _module_file(name: str) -> Path:
    return Path(name) if name.endswith(".py") else Path(name.replace(".", "/") + ".py")


def _variables(name: str) -> Mapping[str, Any]:
    root = clone_root()
    for folder in (Path.cwd(), root):
        if folder is not None and str(folder) not in sys.path:
            sys.path.append(str(folder))
    if name.endswith(".py"):
        return runpy.run_path(name)
    return vars(importlib.import_module(name))
