"""Builds a C++ source into a shared library, once a machine, with nothing but a compiler; what Triton needs; cores."""

from __future__ import annotations

import ctypes
import errno
import functools
import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from specdecodes.errors import UNWRITABLE, CompileError, DiskError
from specdecodes.folders import cache_folder

FLAGS = ("-O3", "-std=c++17", "-fPIC", "-shared", "-fopenmp", "-fno-math-errno", "-fno-trapping-math")
SECONDS = 120


def usable_cores() -> int:
    """That this process may run on, counted as the system counts them."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def find_compiler() -> str | None:
    """Path of the C++ compiler: $CXX if set, else the first of c++, g++ and clang++."""
    named = os.environ.get("CXX")
    found = (shutil.which(name) for name in ([named] if named else ["c++", "g++", "clang++"]))
    return next((path for path in found if path), None)


def build(source: Path, folder: Path | None = None) -> Path:
    """The library of `source` under `folder` (None: the cache's), compiled on first use and whole or absent at any
    moment. Headers beside it that it includes belong to it.

    Raises CompileError naming the compiler and its first complaint, DiskError when the folder cannot be written.
    """
    compiler, folder = find_compiler(), folder or cache_folder() / "kernels"
    if compiler is None:
        raise CompileError("no C++ compiler was found: install g++, or point CXX to one.")
    text = source.read_text(encoding="utf-8")
    headers = [
        (source.parent / name).read_text(encoding="utf-8")
        for name in re.findall(r'^#include "(.+)"', text, re.MULTILINE)
    ]
    key = "\0".join([compiler, platform.machine(), *FLAGS, text, *headers])
    library = folder / f"{source.stem}-{hashlib.sha256(key.encode()).hexdigest()[:24]}.so"
    if library.exists():
        return library
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as workplace:
            made = Path(workplace) / library.name
            _compile(compiler, source, made)
            os.replace(made, library)
    except OSError as error:
        if error.errno not in UNWRITABLE:
            raise
        raise DiskError(error) from error
    return library


def load(source: Path) -> ctypes.CDLL:
    """The library of `source`, built on first use, and anew where its file is damaged (a power cut leaves it empty).

    Raises what `build` does, and OSError when it cannot be loaded.
    """
    library = build(source)
    try:
        return ctypes.CDLL(str(library))
    except OSError:
        library.unlink()
        return ctypes.CDLL(str(build(source)))


class Found(NamedTuple):
    """A library, or why there is none."""

    library: ctypes.CDLL | None
    missing: str = ""


@functools.cache
def load_if_built(source: Path) -> Found:
    """The same for a kernel that torch stands in for, asked once. Raises DiskError alone."""
    try:
        return Found(load(source))
    except CompileError as error:
        return Found(None, str(error).rstrip("."))
    except OSError as error:
        return Found(None, f"{source.name} could not be kept or loaded ({error})")


def address(function: Any) -> int:
    """Where a library's function lies, for kernels that call it."""
    return ctypes.cast(function, ctypes.c_void_p).value or 0


def _compile(compiler: str, source: Path, library: Path) -> None:
    command = [compiler, *FLAGS, str(source), "-o", str(library)]
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    except subprocess.TimeoutExpired as error:
        raise CompileError(f"{compiler} took over {SECONDS} s for {source.name}.") from error
    if result.returncode:
        if os.strerror(errno.ENOSPC) in result.stderr:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(library.parent.parent))
        complaints = [line for line in result.stderr.splitlines() if "error" in line] or result.stderr.splitlines()
        raise CompileError(f"{compiler} could not build {source.name}: {complaints[0] if complaints else 'no message'}")


@functools.cache
def missing_triton() -> str:
    """Why kernels in Triton cannot run on a GPU here; empty where they can. Triton builds their launchers in C."""
    if find_spec("triton") is None:
        return "triton is not installed, which comes with torch's CUDA build"
    named = os.environ.get("CC")
    if not any(shutil.which(name) for name in ([named] if named else ["gcc", "clang"])):
        return "triton needs a C compiler: install gcc, or point CC to one"
    return ""
