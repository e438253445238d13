"""Linears of few bits beside the time that their bytes take: how near each kernel is to the memory's own speed.

    python benchmarks/kernels.py --rows 1,4,8,16 --out assets/results/NAME.json

Weights are those of one decoder layer, copied until no cache holds them; the floor is their bytes over the speed at
which the device reads memory, measured beside every row of the table. Quoted are medians over alternating rounds. On a
GPU kernels are tuned first, and launched from a graph, as in a draft; not yet run on one.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a clone that is not installed

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from benchmarks.receipt import write_receipt
from specdecodes.engine.graphs import can_record, capture
from specdecodes.models.decoder import Linear
from specdecodes.quant import Execution, specimen
from specdecodes.quant.kernels.cuda.tuning import tune
from specdecodes.quant.spec import find_scheme

LAYER = {"qkv_proj": (2, 1), "o_proj": (1, 1), "gate_up_proj": (8, 1), "down_proj": (1, 4)}
"""Outputs and inputs of the joined linears of a layer, in multiples of the hidden size."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--schemes", default="hqq4,hqq4@int4pack,hqq4@int8,none", help="as draft.quant spells them")
    parser.add_argument("--rows", default="1,4,8,16")
    parser.add_argument("--hidden", type=int, default=1280, help="hidden size of the layer")
    parser.add_argument("--layers", type=int, default=8, help="copies of the layer; no cache should hold them")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, help="the receipt, a JSON file")
    given = parser.parse_args()
    rows = [int(count) for count in given.rows.split(",")]
    table = Table("scheme", "kernel", "MB", *(f"{count} rows" for count in rows), title="times its bytes' own time")
    results = []
    for spelled in given.schemes.split(","):
        linears = stack(spelled, given.hidden, given.layers, given.device)
        size = sum(t.nbytes for linear in linears for t in (*linear.parameters(), *linear.buffers()))
        ratios = [measure(linears, size, count, given) for count in rows]
        kernel = type(linears[0]).__name__
        table.add_row(spelled, kernel, f"{size / 1e6:.0f}", *(f"{ratio['times_floor']:.2f}" for ratio in ratios))
        results.append(
            {"scheme": spelled, "kernel": kernel, "bytes": size, "rows": dict(zip(rows, ratios, strict=True))}
        )
        if given.out is not None:  # anew after each: cut short, it leaves what there is
            write_receipt(given.out, {"results": results})
    Console().print(table)


def stack(spelled: str, hidden: int, layers: int, device: str) -> list[nn.Module]:
    """The linears of `layers` layers, each with weights of its own."""
    scheme, made = find_scheme(spelled), []
    for _ in range(layers):
        for outputs, inputs in LAYER.values():
            if scheme is None:
                linear = Linear(outputs * hidden, inputs * hidden, False, torch.bfloat16)
                linear.weight = torch.full(
                    (outputs * hidden, inputs * hidden), 0.01, dtype=torch.bfloat16, device=device
                )
                made.append(linear)
            else:
                made.append(specimen(outputs * hidden, inputs * hidden, scheme, Execution(device, rows=8)))
    return made


def measure(linears: list[nn.Module], size: int, rows: int, given: argparse.Namespace) -> dict[str, float]:
    """Seconds of running `rows` rows through all linears, GB/s of the memory beside them, and their ratio."""
    device = torch.device(given.device)
    widths = [inputs * given.hidden for _, inputs in LAYER.values()]
    inputs = [torch.randn(1, rows, width, dtype=torch.bfloat16, device=device) for width in widths]

    def run() -> None:
        for place, linear in enumerate(linears):
            linear(inputs[place % len(LAYER)])

    numbers = torch.ones(64 * 2**20, device=device)
    work: Callable[[], Tensor | None] = run
    if can_record(device):
        tune(linears, rows)
    run()
    if can_record(device):
        work = capture(run, device, None).replay
    seconds, speeds = [], []
    for _ in range(given.rounds):
        speeds.append(numbers.nbytes / timed(numbers.sum, device) / 1e9)
        seconds.append(timed(work, device))
    taken, speed = statistics.median(seconds), statistics.median(speeds)
    return {"seconds": taken, "memory_gbps": speed, "times_floor": taken / (size / speed / 1e9)}


def timed(work: Callable[[], Tensor | None], device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    started = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    main()
