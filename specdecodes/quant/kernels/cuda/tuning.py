"""Kernels on CUDA tuned for the shapes at hand: once a machine and shape, while loading, never in a measured run.

What our Triton kernels leave open is into how many splits the loop over the inputs is cut; gemlite tunes itself at its
first call and keeps what it found in a file of its own. Figures lie beside the built kernels. Not yet run on a GPU.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from torch import nn
from tqdm import tqdm

from specdecodes.folders import cache_folder, remember, remembered
from specdecodes.quant.kernels.cuda.gemlite import GemliteLinear
from specdecodes.quant.kernels.cuda.lookup import LookupLinear
from specdecodes.quant.kernels.cuda.w4a16 import W4A16Linear

Split = W4A16Linear | LookupLinear
Seconds = Callable[[Split, int], float]

ROUNDS = 20  # calls between two readings of the clock


def tune(linears: Iterable[nn.Module], rows: int, *, seconds: Seconds | None = None, machine: str = "") -> int:
    """Set the splits of `linears` for steps of `rows` tokens; gives how many shapes had to be timed.

    `seconds` times a linear at the splits it has; `machine` is the GPU's name, asked of torch when empty.
    """
    linears = list(linears)
    splits = [linear for linear in linears if isinstance(linear, Split)]
    gemlites = [linear for linear in linears if isinstance(linear, GemliteLinear)]
    if splits:
        machine = machine or torch.cuda.get_device_name(splits[0].packed_weight.device)
    known, timed = remembered(_path()), {}
    shapes = {_key(machine, linear, rows): linear for linear in splits}
    wanted = [key for key in shapes if key not in known]
    for key in tqdm(wanted, desc="tuning kernels", unit="shape", leave=False, disable=None):
        timed[key] = _best(shapes[key], rows, seconds or _seconds)
    if timed:
        remember(_path(), remembered(_path()) | timed)
    for linear in splits:
        linear.tuned[rows] = (known | timed)[_key(machine, linear, rows)]
    _warm(gemlites, rows)
    return len(timed)


def _best(linear: Split, rows: int, seconds: Seconds) -> int:
    """The splits at which `linear` is fastest: around those that arithmetic would choose."""
    guess = linear.splits(rows)
    took = {}
    for splits in sorted({1, max(guess // 2, 1), guess, 2 * guess}):
        linear.tuned[rows] = splits
        took[splits] = seconds(linear, rows)
    return min(took, key=took.__getitem__)


def _seconds(linear: Split, rows: int) -> float:
    """Of a call, from the GPU's own clock; recorded, since launching one takes longer than it runs."""
    x = torch.zeros(rows, linear.in_features, device=linear.packed_weight.device, dtype=torch.bfloat16)
    linear(x)  # compiles
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        for _ in range(ROUNDS):
            linear(x)
    graph.replay()
    started, ended = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    started.record()
    graph.replay()
    ended.record()
    ended.synchronize()
    return started.elapsed_time(ended) / ROUNDS / 1e3


def _warm(linears: list[GemliteLinear], rows: int) -> None:
    """Let gemlite tune itself now, from what it kept and for keeping."""
    if not linears:
        return
    gemlite, kept = importlib.import_module("gemlite"), _path().with_name("gemlite.json")
    if kept.exists():
        gemlite.load_config(str(kept))
    for linear in {(one.in_features, one.out_features): one for one in linears}.values():
        linear(torch.zeros(rows, linear.in_features, device="cuda", dtype=linear.dtype))
    kept.parent.mkdir(parents=True, exist_ok=True)
    gemlite.cache_config(str(kept))


def _key(machine: str, linear: Split, rows: int) -> str:
    kind = type(linear).__name__
    return f"{machine} {kind} {linear.out_features}x{linear.in_features} {linear.bits} bits {linear.group} {rows} rows"


def _path() -> Path:
    return cache_folder() / "kernels" / "tuned.json"
