"""How fast weights are restored from what is streamed of them, in both ways, beside the link that brings it.

    python benchmarks/restoring.py --out assets/results/NAME.json

Blocks are of the size that a stream has, of weights such as trained ones, and so many that no cache holds them. Quoted
are medians, in GB/s of restored weights, as a stream launches what restores them and from one CUDA graph, without the
host; `times the link` is the first over what the link brings of them. On a CPU one core restores, and there is neither.
Not yet run on a GPU.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a clone that is not installed

import torch

from benchmarks.receipt import arms_table, write_receipt
from specdecodes.engine.graphs import can_record, capture
from specdecodes.methods.measured.machine import find_device, link_gbps
from specdecodes.offload.compression.alone.packing import Alone
from specdecodes.offload.compression.beside import remainder
from specdecodes.offload.compression.beside.guess import HALVES, LANES, Guess
from specdecodes.offload.compression.beside.packing import Beside, Piece

COLUMNS = {
    "of its bytes": ("share", "{:.1%}"),
    "restored GB/s": ("gbps", "{:.1f}"),
    "from a graph": ("recorded_gbps", "{:.1f}"),
    "times the link": ("times_link", "{:.1f}"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--widths", default="3584,18944", help="inputs of a weight (default: those of a 7B model)")
    parser.add_argument("--mib", type=int, default=32, help="restored MiB of a block")
    parser.add_argument("--blocks", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path, help="the receipt, a JSON file")
    given = parser.parse_args()
    device = find_device(given.device)
    link = link_gbps(device) if device.type == "cuda" else 0.0
    arms: dict[str, dict[str, float]] = {}
    for width in map(int, given.widths.split(",")):
        for way in ("alone", "beside"):
            arms[f"{way}, {width} inputs"] = measure(way, width, device, link, given)
            if given.out is not None:  # anew after each: cut short, it leaves what there is
                write_receipt(given.out, {"link_gbps": link, "arms": arms})
    print(arms_table(arms, COLUMNS))


def measure(way: str, width: int, device: torch.device, link: float, given: argparse.Namespace) -> dict[str, float]:
    """The figures of a table's row."""
    rows = max(given.mib * 2**19 // width // 16 * 16, 16)
    guess, raw = remainder.sample(rows, width, layout=LANES if device.type == "cpu" else HALVES)
    packings = [_packing(way, guess, device) for _ in range(given.blocks)]
    block = _packing(way, guess, torch.device("cpu")).compress(raw)
    cuts, blocks = packings[0].cuts(block), [block.to(device, copy=True) for _ in packings]
    out = torch.empty(given.blocks, raw.numel(), dtype=torch.uint8, device=device)

    def restore() -> None:
        for packing, one, target in zip(packings, blocks, out, strict=True):
            if device.type == "cpu":
                packing.expand(one, target)
            else:
                packing.expand_on(one, target, cuts)

    restore()
    if not out[-1].cpu().equal(raw):
        raise RuntimeError(f"other weights came back, {way}")
    share, nbytes = block.numel() / raw.numel(), given.blocks * raw.numel()
    found = {"share": share, "gbps": nbytes / _seconds(restore, device, given.rounds) / 1e9}
    if can_record(device):
        replay = capture(restore, device, None).replay
        found |= {"recorded_gbps": nbytes / _seconds(replay, device, given.rounds) / 1e9}
    return found | {"times_link": found["gbps"] * share / link if link else 0.0}


def _packing(way: str, guess: Guess, device: torch.device) -> Alone | Beside:
    """With buffers of its own."""
    if way == "alone":
        return Alone(torch.bfloat16)
    buffers = (tensor.to(device, copy=True) for tensor in (guess.packed, guess.scale, guess.offset))
    held = dict(zip(("packed", "scale", "offset"), buffers, strict=True))
    return Beside((Piece(0, guess.nbytes, replace(guess, **held)),))


def _seconds(work: Callable[[], object], device: torch.device, rounds: int) -> float:
    taken = []
    for _ in range(rounds):
        started = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        taken.append(time.perf_counter() - started)
    return statistics.median(taken)


if __name__ == "__main__":
    main()
