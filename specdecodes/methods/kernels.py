"""The kernels that any pipeline runs on: built side by side at a first start, and what takes their place."""

from __future__ import annotations

from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor

import torch

from specdecodes.drafters import next_level
from specdecodes.models.fused import cpu_layer
from specdecodes.models.kernels import cpu_attention, cpu_linear
from specdecodes.native import load_if_built, missing_triton, usable_cores
from specdecodes.quant.kernels.cpu import w4a8

STOOD_IN = {
    cpu_attention.SOURCE: "attention (half as fast; in exact mode a third to a fifth)",
    cpu_linear.SOURCE: "linears of few rows (bfloat16: half as fast)",
    cpu_layer.SOURCE: "layers as one call",
    next_level.SOURCE: "the choice of a tree's nodes",
}
"""What torch does instead where one of our kernels is missing, and what that costs."""


def build_kernels(device: torch.device) -> None:
    """Those of a CPU, side by side where they are not there yet, which takes seconds. Raises DiskError."""
    if device.type == "cpu":
        with ThreadPoolExecutor(usable_cores()) as pool:
            low_bit = pool.submit(w4a8.support)
            list(pool.map(load_if_built, STOOD_IN))
            low_bit.result()


def shortages(device: torch.device) -> list[tuple[str, str, str]]:
    """Rows of a plan's table: what is missing on this machine, and what runs in its place."""
    if device.type == "cuda" and missing_triton():
        return [("attention", f"torch's own, which is slower: {missing_triton()}", "")]
    if device.type != "cpu":
        return []
    lost = defaultdict(list)
    for source, what in STOOD_IN.items():
        if why := load_if_built(source).missing:
            lost[why].append(what)
    return [("kernels", f"torch's own for {', '.join(what)}: {why}", "slower") for why, what in lost.items()]
