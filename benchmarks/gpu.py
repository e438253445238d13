"""Plain, classic and SubSpec decoding of a 7B-shaped model on one GPU under a memory cap, beside peers; one table.

    bash benchmarks/gpu.sh            builds the model, runs the GPU tests, then this
    python benchmarks/gpu.py --model DIR [--draft-model DIR] [--cap 8GiB] [--arms NAME ...] [--dry-run]

Every arm runs in a process of its own whose allocator may hold no more than the cap, on the same prompts, greedily;
arms alternate, round after round, and what there is no time for is left out. Receipt and table are written anew after
every arm, so a run that is cut short leaves what it had measured. Quoted are medians of the answers. Every
baseline has its fastest setting (no exact mode, no padding), but for two. The blocking one does what the published
baselines do: it asks for a layer when it is needed and waits for it. And `subspec, published settings` is our engine in
theirs: trees of 6 lanes and 48 levels, all of them drafted, 4-bit substitutes of all layers, none resident. Other arms
of `subspec` are ours without one of its parts, or on another kernel: one run tells what each is worth.

`expected`: what the arm's plan said before it ran, so that the worth of each part is predicted in the same table.
`times its bytes`: a draft step beside the time that what it reads takes at the memory's speed. `link used`: what
arrived over whole rounds, in shares of the link's own speed. Both speeds are measured apart. `--dry-run` runs all of it
on the CPU. Written without a GPU at hand; no figure of it is known yet.
"""

from __future__ import annotations

import argparse
import json
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from datetime import date
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a clone that is not installed

from benchmarks.gpu_arm import ACCELERATE, ARMS, LLAMA_CPP, PUBLISHED, run_arm
from benchmarks.receipt import arms_table
from specdecodes.benchmark.environment import describe
from specdecodes.errors import SpecDecodesError

ROOT = Path(__file__).resolve().parents[1]
COLUMNS = {  # of the table: the figure, and how it is written
    "tokens/s": ("decode_tokens_per_second", "{:.2f}"),
    "expected": ("expected_tokens_per_second", "{:.2f}"),
    "times plain": ("times_plain", "{:.2f}"),
    "times published": ("times_published", "{:.2f}"),
    "accepted a round": ("tau", "{:.1f}"),
    "draft step ms": ("draft_step_ms", "{:.2f}"),
    "times its bytes": ("times_its_bytes", "{:.2f}"),
    "GB a round": ("gb_per_round", "{:.2f}"),
    "link GB/s": ("link_gbps", "{:.1f}"),
    "link used": ("link_used", "{:.0%}"),
    "peak GiB": ("peak_gib", "{:.2f}"),
}


def main() -> int:
    arguments = _arguments()
    try:
        if arguments.arm:
            print(json.dumps(run_arm(arguments)))
            return 0
        return compare(arguments)
    except SpecDecodesError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="a checkpoint folder")
    parser.add_argument("--draft-model", type=Path, default=ROOT / "assets/demo-draft", help="of the classic arm")
    parser.add_argument("--gguf", type=Path, help="the same model for llama.cpp, where llama-cpp-python is installed")
    parser.add_argument("--cap", default="8GiB", help="device memory of every arm (default: 8GiB)")
    parser.add_argument("--reserve", default="512MiB", help="part of the cap for workspaces; the rest is the budget")
    parser.add_argument("--host-memory", help="to count on, where memory grows with its use (default: what is free)")
    parser.add_argument("--rounds", type=int, default=2, help="runs of every arm, in turn")
    parser.add_argument("--prompts", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=128, help="tokens an answer of a drafted arm")
    parser.add_argument("--plain-tokens", type=int, default=16, help="tokens an answer of any other arm")
    parser.add_argument("--arms", nargs="+", choices=[*ARMS, ACCELERATE, LLAMA_CPP], metavar="NAME", help="only these")
    parser.add_argument("--minutes", type=float, default=8.0, help="no arm begins that would not end by then")
    parser.add_argument("--arm-minutes", type=float, default=4.0, help="an arm that takes longer is stopped")
    parser.add_argument("--out", type=Path, help="folder of the receipt and the table (default: assets/results)")
    parser.add_argument("--dry-run", action="store_true", help="on the CPU, with few tokens: all but the kernels")
    parser.add_argument("--arm", help=argparse.SUPPRESS)  # one arm, in this process
    return parser.parse_args()


def compare(arguments: argparse.Namespace) -> int:
    """Runs the arms in turn and writes the receipt and the table; 1 when an arm failed."""
    if not arguments.dry_run and not torch.cuda.is_available():
        print("error: no CUDA device was found; --dry-run runs all but the kernels on the CPU.", file=sys.stderr)
        return 2
    out = arguments.out or ROOT / ("results" if arguments.dry_run else "assets/results")
    name = "cpu-dry-run" if arguments.dry_run else torch.cuda.get_device_name().lower().replace(" ", "-")
    path, started, runs, text = out / f"{name}-{date.today()}.json", time.monotonic(), [], ""
    out.mkdir(parents=True, exist_ok=True)
    for run in run_in_turn(arguments):
        runs.append(run)
        text = write(path, arguments, runs, time.monotonic() - started)
    if not runs:
        print("error: there was no time for any arm; give more --minutes.", file=sys.stderr)
        return 1
    print(f"\n{text}\nwritten to {path}")
    return int(any("error" in run for run in runs))


def write(path: Path, arguments: argparse.Namespace, runs: Sequence[dict[str, Any]], seconds: float) -> str:
    """The receipt of the runs so far, and beside it the table, whose text is returned."""
    arms, command = summary(runs), shlex.join(["python", *sys.argv])
    receipt = {"cap": arguments.cap, "arms": arms, "runs": runs, "seconds": seconds, "command": command}
    receipt |= {"environment": describe(), "dry_run": arguments.dry_run}
    path.write_text(json.dumps(receipt, indent=1) + "\n", encoding="utf-8")
    notes = [*(f"- {note}" for note in fallbacks(runs)), "", f"`{command}`"]
    text = f"# {path.stem}, cap {arguments.cap}\n\n{arms_table(arms, COLUMNS)}\n" + "\n".join(notes).lstrip() + "\n"
    path.with_suffix(".md").write_text(text, encoding="utf-8")
    return text


def fallbacks(runs: Sequence[dict[str, Any]]) -> list[str]:
    """What arms said of steps that were not recorded or compiled, and of memory that was not page-locked."""
    lines = {line for run in runs for line in run.get("said", "").splitlines()}
    return sorted(line for line in lines if line.startswith(("steps ", "the system refused")))


def run_in_turn(arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Every arm in every round, as long as there is time for one that takes as long as most did."""
    started, took = time.monotonic(), list[float]()
    for number, arm in product(range(arguments.rounds), arms(arguments)):
        began = time.monotonic()
        left = started + 60 * arguments.minutes - began
        if left <= (statistics.median(took) if took else 0.0):
            print(f"no time for {arm} in round {number + 1}, nor for what follows", flush=True)
            break
        result = in_process(arm, min(left, 60 * arguments.arm_minutes))
        seconds = time.monotonic() - began
        if "error" not in result:  # one that got stuck says nothing of the others
            took.append(seconds)
        told = f"{result['decode_tokens_per_second']:.2f} tokens/s" if "error" not in result else result["error"]
        print(f"round {number + 1}: {arm}: {told} ({seconds:.0f} s)", flush=True)
        yield {"arm": arm, "round": number, "seconds": seconds, **result}


def arms(arguments: argparse.Namespace) -> list[str]:
    """Ours, and the peers that are installed; or those that were asked for."""
    peers = [ACCELERATE] if find_spec("accelerate") else []
    ours = [name for name, arm in ARMS.items() if not arm.kernel or arguments.dry_run or find_spec(arm.kernel)]
    every = [*ours, *peers, *([LLAMA_CPP] if arguments.gguf and find_spec("llama_cpp") else [])]
    return [arm for arm in every if arm in (arguments.arms or every)]


def in_process(arm: str, seconds: float) -> dict[str, Any]:
    """One arm's figures, from a fresh process with the same options; `error` when it fails or takes longer."""
    command = [sys.executable, __file__, *sys.argv[1:], "--arm", arm]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=seconds)
    except subprocess.TimeoutExpired as error:
        said = error.stderr.decode(errors="replace") if isinstance(error.stderr, bytes) else error.stderr or ""
        return {"error": f"stopped after {seconds:.0f} s", "stderr": said[-4000:]}
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        return {"error": lines[-1], "stderr": done.stderr[-4000:]}
    return json.loads(done.stdout.splitlines()[-1]) | {"said": done.stderr[-4000:]}


def summary(runs: Sequence[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Medians of every arm's figures, and its speed in those of plain decoding and of the published settings."""
    bases = {"times_plain": speeds(runs, "plain"), "times_published": speeds(runs, PUBLISHED)}
    found: dict[str, dict[str, float]] = {}
    for arm in dict.fromkeys(run["arm"] for run in runs):
        good = [run for run in runs if run["arm"] == arm and "error" not in run]
        names = [key for key, value in good[0].items() if isinstance(value, int | float)] if good else []
        found[arm] = {name: statistics.median(run[name] for run in good) for name in names if name != "round"}
        for name, base in bases.items():
            ratios = [run["decode_tokens_per_second"] / base[run["round"]] for run in good if base.get(run["round"])]
            if ratios:
                found[arm][name] = statistics.median(ratios)
    return found


def speeds(runs: Sequence[dict[str, Any]], arm: str) -> dict[int, float]:
    """Tokens a second of `arm` by round, where it did not fail."""
    good = [run for run in runs if run["arm"] == arm and "error" not in run]
    return {run["round"]: run["decode_tokens_per_second"] for run in good}


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    sys.exit(main())
