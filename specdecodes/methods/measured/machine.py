"""What this machine can do, measured briefly, for the plan to predict with."""

from __future__ import annotations

import time
from functools import cache
from pathlib import Path

import psutil
import torch

from specdecodes.errors import ConfigError
from specdecodes.methods.measured.ledger import keep, key_of, recall
from specdecodes.offload.planning.shape import BESIDE
from specdecodes.offload.planning.work import Machine
from specdecodes.offload.storage.store import measure_read, probe

_SAMPLE = 256 * 2**20  # bytes read from disk: a sixth of a second or so


def measure(files: tuple[Path, ...], device: torch.device) -> Machine:
    """Disk and link speed as the last runs had them, else measured briefly, and the memory that this process has by
    now."""
    link = (streamed_before("host", files) or link_gbps(device)) if device.type == "cuda" else 0.0
    disk = streamed_before("disk", files) or _disk_gbps(files)
    process = psutil.Process().memory_info().rss
    if link:
        return Machine(disk, link, process_bytes=process)
    threads = torch.get_num_threads()
    return Machine(disk, process_bytes=process, threads=threads)


def streamed_before(tier: str, files: tuple[Path, ...]) -> float | None:
    """GB/s at which the last runs of this checkpoint streamed from `tier`: seconds of reading say more than a short
    sample, but of layers of another size something else."""
    kept = recall(_stream_key(tier, files), ("gbps",))
    return kept["gbps"] if kept else None


def compressed_tier(kind: str) -> str:
    """The tier of layers whose files are read compressed: other files than the checkpoint's, and read otherwise."""
    return "compressed files on disk" + (", beside substitutes" if kind == BESIDE else "")


def remember_stream(tier: str, files: tuple[Path, ...], gbps: float) -> None:
    """Keep what a run streamed at."""
    keep(_stream_key(tier, files), {"gbps": gbps})


def _stream_key(tier: str, files: tuple[Path, ...]) -> str:
    return key_of("stream", tier, *(str(file.resolve()) for file in files))


def free_bytes(device: torch.device) -> int:
    """Memory that is free on `device`, as the driver or the system says."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available


@cache
def _disk_gbps(files: tuple[Path, ...]) -> float:
    """Of a second reading: a disk that was idle begins slowly, and a stream reads the same bytes pass after pass, which
    what lies before the disk (a host's memory) may hold by then."""
    direct = probe(files[0]).direct
    *_, again = (measure_read(list(files), direct=direct, max_bytes=_SAMPLE) for _ in range(2))
    return again


@cache
def link_gbps(device: torch.device) -> float:
    """Host to device, from pinned memory, the best of five copies."""
    host = torch.ones(64 * 2**20, dtype=torch.uint8).pin_memory()
    landing = torch.empty_like(host, device=device)
    best = float("inf")
    for _ in range(5):
        torch.cuda.synchronize(device)
        started = time.perf_counter()
        landing.copy_(host, non_blocking=True)
        torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - started)
    return host.nbytes / best / 1e9


def find_device(name: str) -> torch.device:
    """`auto` is the first CUDA device, else the CPU. Raises ConfigError for a device that is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"target.device '{name}' is no device; write auto, cpu, cuda or cuda:1.") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            f"target.device is {name}, but no CUDA device was found; write cpu, or install the CUDA build of torch."
        )
    if device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)  # streams, events and graphs that are made without naming one are then of this
    return device
