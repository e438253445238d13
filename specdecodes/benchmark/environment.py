"""Where a figure was measured: machine, revision, versions. Kept beside every result."""

from __future__ import annotations

import importlib.metadata
import platform
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import torch

PACKAGES = ("torch", "transformers", "tokenizers", "safetensors", "numpy", "hqq", "gemlite", "triton")


def describe() -> dict[str, Any]:
    """The machine, the code and the packages of this process, as plain data. Sizes in bytes."""
    return {
        "machine": machine_name(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cpu": cpu_name(),
        "cores": len(psutil.Process().cpu_affinity()) if sys.platform == "linux" else psutil.cpu_count(),
        "threads": torch.get_num_threads(),
        "ram_bytes": psutil.virtual_memory().total,
        "accelerators": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "revision": revision(),
        "python": platform.python_version(),
        "packages": {name: found for name in PACKAGES if (found := installed(name))},
    }


def machine_name() -> str:
    """The machine in one line: what figures of two runs must share to be compared."""
    cores = len(psutil.Process().cpu_affinity()) if sys.platform == "linux" else psutil.cpu_count()
    accelerators = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    ram = f"{psutil.virtual_memory().total / 2**30:.0f} GiB RAM"
    return ", ".join([f"{platform.system()} {platform.machine()}", f"{cores} x {cpu_name()}", ram, *accelerators])


def cpu_name() -> str:
    """The processor's own name where the system tells it."""
    return cpu_line("model name") or platform.processor() or platform.machine()


def cpu_line(key: str) -> str:
    """The first value of `key` in Linux's list of processors; empty elsewhere."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines() if cpuinfo.exists() else []
    values = (line.partition(":")[2].strip() for line in lines if line.partition(":")[0].strip() == key)
    return next(values, "")


def revision() -> str:
    """The git revision of this code, with `+changes` when files differ from it; `not a clone` for an installed copy."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return "not a clone"
    try:
        commit = _git(root, "rev-parse", "--short=12", "HEAD")
        return commit + ("+changes" if _git(root, "status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError) as error:
        return f"unknown ({error})"


def peak_device_bytes(device: str | None = None) -> int:
    """Most memory held at once: the allocator's on a GPU, else the whole process's, for there RAM is the device.

    The latter includes Python, torch and compiled code: a few hundred MiB that no budget counts. Without a `device` a
    GPU is meant where there is one.
    """
    if torch.cuda.is_available() if device is None else device.startswith("cuda"):
        return torch.cuda.max_memory_allocated()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _git(root: Path, *arguments: str) -> str:
    command = ["git", "-C", str(root), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def installed(package: str) -> str | None:
    """Its version; None where it is missing."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
