"""What this machine can do, measured briefly, for the plan to predict with."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cache
from pathlib import Path

import psutil
import torch

from specdecodes.offload.predict import Machine
from specdecodes.offload.store import measure_read, probe

_SAMPLE = 128 * 2**20  # bytes read from disk: a tenth of a second or so


def measure(files: tuple[Path, ...], device: torch.device) -> Machine:
    """Disk, memory and link speed here; each measured once a process."""
    disk = _disk_gbps(files)
    if device.type != "cuda":
        return Machine(disk_gbps=disk, memory_gbps=_read_gbps(device))
    return Machine(disk_gbps=disk, memory_gbps=_read_gbps(device), host_gbps=_link_gbps(device))


def free_bytes(device: torch.device) -> int:
    """Memory that a budget may claim when none is given: nine tenths of what is free."""
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available
    return free * 9 // 10


@cache
def _disk_gbps(files: tuple[Path, ...]) -> float:
    return measure_read(list(files), direct=probe(files[0]).direct, max_bytes=_SAMPLE)


@cache
def _read_gbps(device: torch.device) -> float:
    """Reading weights: a matrix-vector product over 64 MiB of them, the best of five."""
    weights = torch.ones(8192, 4096, dtype=torch.bfloat16, device=device)
    vector = torch.ones(1, 4096, dtype=torch.bfloat16, device=device)
    return weights.nbytes / _best(lambda: torch.nn.functional.linear(vector, weights), device) / 1e9


@cache
def _link_gbps(device: torch.device) -> float:
    """Host to device, from pinned memory."""
    host = torch.ones(64 * 2**20, dtype=torch.uint8).pin_memory()
    landing = torch.empty_like(host, device=device)
    return host.nbytes / _best(lambda: landing.copy_(host, non_blocking=True), device) / 1e9


def _best(work: Callable[[], object], device: torch.device) -> float:
    seconds = []
    for _ in range(5):
        started = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - started)
    return min(seconds)
