"""What this machine is and has, as findings for `run-doctor`: each a name, what was found, and what to do about it."""

from __future__ import annotations

import os
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch

from specdecodes.benchmark.environment import cpu_line, cpu_name, installed
from specdecodes.folders import cache_folder
from specdecodes.native import usable_cores
from specdecodes.offload.storage.store import measure_read, probe
from specdecodes.quant.cache import entries
from specdecodes.units import format_bytes

CPU_FEATURES = ("avx2", "fma", "avx512f", "avx512_bf16", "avx512_vnni", "avx_vnni", "amx_bf16", "amx_int8")
REQUIRED = ("torch", "transformers", "tokenizers", "safetensors", "numpy", "rich", "typer")
OPTIONAL = {
    "hqq": "the 4-bit solver that ours is tested against",
    "gemlite": "fused low-bit kernels, CUDA only",
    "datasets": "benchmark data from the hub",
    "matplotlib": "figures of results",
    "accelerate": "training of EAGLE heads",
    "tensorboard": "curves of a training",
    "lm_eval": "lm-evaluation-harness on a pipeline",
}
DISK_SAMPLE = 256 * 2**20
MEMORY_SAMPLE = 256 * 2**20


@dataclass(frozen=True)
class Finding:
    """`ok` is None for a plain fact; `advice` says what would change and how."""

    name: str
    found: str
    ok: bool | None = None
    advice: str = ""


def software() -> Iterator[Finding]:
    """Python, the libraries, the compiler."""
    yield Finding("python", f"{platform.python_version()} at {sys.executable}", sys.version_info >= (3, 11))
    for name in REQUIRED:
        version = installed(name)
        yield Finding(name, version or "missing", version is not None, "" if version else f"pip install {name}")
    for name, purpose in OPTIONAL.items():
        version = installed(name)
        yield Finding(name, version or "not installed", None, "" if version else f"{purpose}: pip install {name}")
    compiler = shutil.which(os.environ.get("CXX", "g++"))
    advice = "" if compiler else "torch.compile needs a C++ compiler: apt-get install g++, or pass --eager"
    yield Finding("C++ compiler", compiler or "missing", compiler is not None, advice)


def processor() -> Iterator[Finding]:
    """The CPU and its memory."""
    logical, physical = psutil.cpu_count() or 1, psutil.cpu_count(logical=False) or 1
    yield Finding("system", f"{platform.system()} {platform.release()} {platform.machine()}")
    yield Finding("CPU", cpu_name())
    cores = f"{physical} physical, {logical} logical, {usable_cores()} usable"
    yield Finding("cores", f"{cores}; torch uses {torch.get_num_threads()} threads")
    flags = cpu_line("flags").split()
    features = " ".join(name for name in CPU_FEATURES if name in flags)
    yield Finding("CPU features", f"{features or 'none known'} (torch: {torch.backends.cpu.get_cpu_capability()})")
    memory = psutil.virtual_memory()
    yield Finding("memory", f"{format_bytes(memory.available)} available of {format_bytes(memory.total)}")
    limit = _cgroup_limit()
    if limit is not None and limit < memory.total:
        yield Finding("memory limit", f"{format_bytes(limit)} (cgroup)", None, "keep --device-memory below it")


def kept() -> Iterator[Finding]:
    """What earlier runs left on disk so that later ones start sooner."""
    found = entries()
    layers, size = sum(entry.layers for entry in found), sum(entry.nbytes for entry in found)
    yield Finding("cache", f"{cache_folder()}: {layers} quantized layers, {format_bytes(size)}")


def accelerators() -> Iterator[Finding]:
    """CUDA devices, and a driver that torch cannot use."""
    driver = Path("/proc/driver/nvidia/version")
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            free, total = torch.cuda.mem_get_info(index)
            shape = torch.cuda.get_device_properties(index)
            text = f"{shape.name}, {format_bytes(free)} free of {format_bytes(total)}, sm_{shape.major}{shape.minor}"
            yield Finding(f"cuda:{index}", text, True)
        yield Finding("CUDA", f"{torch.version.cuda} in torch; driver: {_driver(driver)}", True)
    elif driver.exists():
        advice = "torch cannot use the driver: install torch's CUDA build"
        yield Finding("CUDA", f"driver {_driver(driver)}, but no device for torch {torch.__version__}", False, advice)
    else:
        yield Finding("CUDA", "no NVIDIA driver; everything runs on the CPU")


def speeds(folder: Path) -> Iterator[Finding]:
    """Disk and memory, measured for a moment each."""
    writable = folder if os.access(folder, os.W_OK) else Path(tempfile.gettempdir())
    with tempfile.TemporaryDirectory(prefix=".specdecodes-", dir=writable) as scratch:
        files = _sample_files(folder, Path(scratch))
        storage = probe(files[0])
        where = writable if files[0].parent == Path(scratch) else folder
        yield Finding("storage", f"{storage.reason} ({where})", storage.direct or None)
        rate = measure_read(files, direct=storage.direct, max_bytes=DISK_SAMPLE)
        yield Finding("disk read", f"{rate:.2f} GB/s")
    yield Finding("memory read", f"{memory_gbps():.1f} GB/s")


def memory_gbps(nbytes: int = MEMORY_SAMPLE) -> float:
    """GB/s of summing fp32 numbers that no cache holds, the best of three."""
    numbers = torch.ones(nbytes // 4)
    best = float("inf")
    for _ in range(3):
        start = time.perf_counter()
        numbers.sum()
        best = min(best, time.perf_counter() - start)
    return nbytes / best / 1e9


def _cgroup_limit() -> int | None:
    for path in (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes")):
        if path.exists():
            text = path.read_text(encoding="ascii").strip()
            return int(text) if text.isdigit() else None
    return None


def _driver(version: Path) -> str:
    """The release in `NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54 ...`, or unknown."""
    words = version.read_text(encoding="utf-8").split() if version.exists() else []
    return next((word for word in words if word[0].isdigit() and "." in word), "unknown")


def _sample_files(folder: Path, scratch: Path) -> list[Path]:
    """The folder's own weights where they are large enough to time, else a file of random bytes."""
    weights = sorted(folder.glob("*.safetensors"))
    if sum(path.stat().st_size for path in weights) >= DISK_SAMPLE // 4:
        return weights
    sample = scratch / "sample"
    with sample.open("wb") as file:
        for _ in range(16):
            file.write(os.urandom(DISK_SAMPLE // 16))
        file.flush()
        os.fsync(file.fileno())
    return [sample]
