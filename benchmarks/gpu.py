"""Plain, classic and SubSpec decoding of a 7B-shaped model on one GPU under a memory cap, beside peers; one table.

    bash benchmarks/gpu.sh            builds the model, runs the GPU tests, then this
    python benchmarks/gpu.py --model DIR [--draft-model DIR] [--cap 8GiB] [--arms NAME ...] [--dry-run]

Every arm runs in a process of its own whose allocator may hold no more than the cap, on the same prompts, greedily;
arms alternate, round after round, and what there is no time for is left out. Receipt and table are written anew after
every arm, so a run that is cut short leaves what it had measured. Quoted are medians of the answers. Every
baseline has its fastest setting (no exact mode, no padding), but for the blocking one, which does what the published
baselines do: it asks for a layer when it is needed and waits for it. `link used` is what arrived over whole rounds, in
shares of the link's own speed, which is measured apart. `--dry-run` runs all of it on the CPU. Written without a GPU at
hand; no figure of it is known yet.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import date
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from typing import Any
from unittest import mock

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a clone that is not installed

from benchmarks.alternating import figures, link_used
from specdecodes.benchmark.environment import describe
from specdecodes.benchmark.questions.mt_bench import BUNDLED
from specdecodes.benchmark.questions.sources import question, read_samples
from specdecodes.config import Draft, Memory, Pipeline, Target, Tree
from specdecodes.errors import SpecDecodesError
from specdecodes.methods import build
from specdecodes.methods.measured.machine import link_gbps
from specdecodes.native import missing_triton
from specdecodes.offload.slots import Slots, State
from specdecodes.offload.stream import LayerStream
from specdecodes.offload.stream_cuda import CudaLayerStream
from specdecodes.sampling import SamplingParams
from specdecodes.units import parse_bytes

ROOT = Path(__file__).resolve().parents[1]
PUBLISHED = Tree(width=6, depth=48, nodes=289, adaptive=False)
OURS = Tree(width=6, depth=48, nodes=256)
PLAIN = Tree(nodes=2)
# By name: method, tree, exact mode; those that matter most come first, in case that time runs out.
ARMS: dict[str, tuple[str, Tree, bool]] = {
    "plain": ("vanilla", PLAIN, False),
    "subspec": ("subspec_sd", OURS, False),
    "subspec, published settings": ("subspec_sd", PUBLISHED, False),
    "plain, blocking": ("vanilla", PLAIN, False),
    "subspec, exact": ("subspec_sd", OURS, True),
    "classic": ("classic_sd", replace(OURS, depth=32), False),
}
PUBLISHED_ARM, AS_PUBLISHED = "subspec, published settings", ("subspec, published settings", "plain, blocking")
ACCELERATE, LLAMA_CPP = "transformers + accelerate", "llama.cpp"
COLUMNS = {  # of the table: the figure, and how it is written
    "tokens/s": ("decode_tokens_per_second", "{:.2f}"),
    "times plain": ("times_plain", "{:.2f}"),
    "times published": ("times_published", "{:.2f}"),
    "accepted a round": ("tau", "{:.1f}"),
    "draft step ms": ("draft_step_ms", "{:.2f}"),
    "link GB/s": ("link_gbps", "{:.1f}"),
    "link used": ("link_used", "{:.0%}"),
    "peak GiB": ("peak_gib", "{:.2f}"),
}


class OneByOne(Slots):
    """Begins a layer only when nothing else is read, held or waiting."""

    def _begin_turn(self) -> None:
        if all(slot.state is State.FREE for slot in self):
            super()._begin_turn()


class Blocking(LayerStream):
    """Reads a layer when it is asked for: no prefetch."""

    def __init__(self, *layers: Any, **options: Any) -> None:
        super().__init__(*layers, **options)
        self._slots = OneByOne(len(self._slots), self._blocks)


class BlockingCuda(Blocking, CudaLayerStream):
    """And on a GPU only when the kernels of the layer before have ended."""

    def _end_use(self, slot: Any) -> None:
        torch.cuda.synchronize(self._device)
        super()._end_use(slot)


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
    arms, command = summary(runs), " ".join(["python", *sys.argv])
    receipt = {"cap": arguments.cap, "arms": arms, "runs": runs, "seconds": seconds, "command": command}
    receipt |= {"environment": describe(), "dry_run": arguments.dry_run}
    path.write_text(json.dumps(receipt, indent=1) + "\n", encoding="utf-8")
    text = f"# {path.stem}, cap {arguments.cap}\n\n{table(arms)}\n`{command}`\n"
    path.with_suffix(".md").write_text(text, encoding="utf-8")
    return text


def run_in_turn(arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Every arm in every round, as long as there is time for one as long as the longest so far."""
    started, longest = time.monotonic(), 0.0
    for number, arm in product(range(arguments.rounds), arms(arguments)):
        began = time.monotonic()
        left = started + 60 * arguments.minutes - began
        if left <= longest:
            print(f"no time for {arm} in round {number + 1}, nor for what follows", flush=True)
            break
        result = in_process(arm, min(left, 60 * arguments.arm_minutes))
        seconds = time.monotonic() - began
        if "error" not in result:  # one that got stuck says nothing of the others
            longest = max(longest, seconds)
        told = f"{result['decode_tokens_per_second']:.2f} tokens/s" if "error" not in result else result["error"]
        print(f"round {number + 1}: {arm}: {told} ({seconds:.0f} s)", flush=True)
        yield {"arm": arm, "round": number, "seconds": seconds, **result}


def arms(arguments: argparse.Namespace) -> list[str]:
    """Ours, and the peers that are installed; or those that were asked for."""
    peers = [ACCELERATE] if find_spec("accelerate") else []
    every = [*ARMS, *peers, *([LLAMA_CPP] if arguments.gguf and find_spec("llama_cpp") else [])]
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
    return json.loads(done.stdout.splitlines()[-1])


def summary(runs: Sequence[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Medians of every arm's figures, and its speed in those of plain decoding and of the published settings."""
    bases = {"times_plain": speeds(runs, "plain"), "times_published": speeds(runs, PUBLISHED_ARM)}
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


def table(arms: Mapping[str, Mapping[str, float]]) -> str:
    """The arms as a Markdown table; what an arm does not have stays empty."""
    lines = ["| arm | " + " | ".join(COLUMNS) + " |", "| --- |" + " ---: |" * len(COLUMNS)]
    for arm, row in arms.items():
        cells = [form.format(row[name]) if row.get(name) else "" for name, form in COLUMNS.values()]
        lines.append(f"| {arm} | " + " | ".join(cells if row else ["failed", *cells[1:]]) + " |")
    return "\n".join(lines) + "\n"


def run_arm(arguments: argparse.Namespace) -> dict[str, Any]:
    """The medians of one arm's answers, in this process, under the cap."""
    if not arguments.dry_run:
        total = torch.cuda.mem_get_info()[1]
        torch.cuda.set_per_process_memory_fraction(min(1.0, parse_bytes(arguments.cap) / total))
    prompts = [sample.turns[0] for sample in read_samples(BUNDLED, question)][: arguments.prompts + 1]
    answer = {ACCELERATE: with_accelerate, LLAMA_CPP: with_llama_cpp}.get(arguments.arm, with_ours)
    rows = list(answer(arguments, prompts))[1:]  # the first compiles and warms up
    medians = {name: statistics.median(row[name] for row in rows) for name in rows[0] if _is_number(rows[0][name])}
    if not arguments.dry_run:
        medians["peak_gib"] = torch.cuda.max_memory_reserved() / 2**30
    return {"plan": rows[0]["plan"], **medians} if "plan" in rows[0] else medians


def _is_number(value: object) -> bool:
    return isinstance(value, int | float)


def pipeline_of(arguments: argparse.Namespace) -> Pipeline:
    """The arm's settings: the same target, budget and length for all."""
    method, tree, exact = ARMS[arguments.arm]
    budget = parse_bytes(arguments.cap) - (0 if arguments.dry_run else parse_bytes(arguments.reserve))
    return Pipeline(
        method=method,
        target=Target(str(arguments.model), device="cpu" if arguments.dry_run else "cuda"),
        draft=Draft(model=str(arguments.draft_model) if method == "classic_sd" else None),
        tree=replace(tree, depth=4, nodes=min(tree.nodes, 16)) if arguments.dry_run else tree,
        memory=Memory(device=budget, compress="off" if arguments.arm in AS_PUBLISHED else "auto"),
        max_length=512 if arguments.dry_run else 2048,
        exact=exact,
        compile=compiles(arguments),
    )


def compiles(arguments: argparse.Namespace) -> bool:
    """Whether steps are compiled; what that lacks is said."""
    if missing_triton() and not arguments.dry_run:
        print(f"steps are not compiled: {missing_triton()}", file=sys.stderr)
    return not arguments.dry_run and not missing_triton()


def with_ours(arguments: argparse.Namespace, prompts: list[str]) -> Iterator[dict[str, Any]]:
    """One row of figures a prompt."""
    pipeline = pipeline_of(arguments)
    tokens = arguments.plain_tokens if pipeline.method == "vanilla" else arguments.tokens
    params = SamplingParams(
        max_tokens=tokens, ignore_eos=True, repetition_penalty=1.2
    )  # 1.2: no loops in a small model
    with contextlib.ExitStack() as until_end:
        if "blocking" in arguments.arm:
            for name, stream in (("LayerStream", Blocking), ("CudaLayerStream", BlockingCuda)):
                until_end.enter_context(mock.patch(f"specdecodes.methods.assembly.{name}", stream))
        link = 0.0 if arguments.dry_run else link_gbps(torch.device("cuda"))
        generator = until_end.enter_context(build(pipeline, progress=lambda text: print(text, file=sys.stderr)))
        plan = [list(row) for row in generator.placement.rows()]
        for prompt in prompts:
            row = figures([generator.generate([{"role": "user", "content": prompt}], params)])
            shares = {"link_bare_gbps": link, "link_used": link_used(row, link)}
            yield row | {"draft_step_ms": 1000 * row["draft_step_s"], "plan": plan} | shares


def with_accelerate(arguments: argparse.Namespace, prompts: list[str]) -> Iterator[dict[str, Any]]:
    """Transformers, the layers that do not fit offloaded by accelerate; in a dry run to disk. Its copies are slow: few
    tokens of one prompt behind the first."""
    tokens, prompts = max(2, arguments.plain_tokens // 4), prompts[:2]
    from transformers import AutoModelForCausalLM, AutoTokenizer

    budget = parse_bytes(arguments.cap) - (0 if arguments.dry_run else parse_bytes(arguments.reserve))
    places: dict[int | str, int | str] = {"cpu": budget} if arguments.dry_run else {0: budget, "cpu": "1000GiB"}
    tokenizer = AutoTokenizer.from_pretrained(arguments.model)
    with tempfile.TemporaryDirectory() as folder:
        model = AutoModelForCausalLM.from_pretrained(
            arguments.model, dtype=torch.bfloat16, device_map="auto", max_memory=places, offload_folder=folder
        )
        device = "cpu" if arguments.dry_run else "cuda"
        for prompt in prompts:
            ids = torch.tensor([tokenizer(prompt).input_ids], device=device)
            yield _timed(lambda ids=ids: model(input_ids=ids), model, tokens)


def _timed(first: Any, model: Any, tokens: int) -> dict[str, Any]:
    """Greedy decoding of `tokens` tokens after `first`, the pass over the prompt; the clock starts behind that."""
    out = first()
    ids, cache = out.logits[:, -1:].argmax(-1), out.past_key_values
    ids.item()
    started = time.perf_counter()
    for _ in range(tokens):
        out = model(input_ids=ids, past_key_values=cache)
        ids, cache = out.logits[:, -1:].argmax(-1), out.past_key_values
        ids.item()
    return {"decode_tokens_per_second": tokens / (time.perf_counter() - started)}


def with_llama_cpp(arguments: argparse.Namespace, prompts: list[str]) -> Iterator[dict[str, Any]]:
    """llama.cpp on a BF16 file, with as many layers on the device as the budget holds."""
    from llama_cpp import Llama

    layers = json.loads((arguments.model / "config.json").read_text(encoding="utf-8"))["num_hidden_layers"]
    fit = layers * (parse_bytes(arguments.cap) - parse_bytes(arguments.reserve)) // arguments.gguf.stat().st_size
    on_device = 0 if arguments.dry_run else min(layers, fit)
    model = Llama(str(arguments.gguf), n_ctx=2048, n_gpu_layers=on_device, verbose=False)
    for prompt in prompts:
        model.reset()
        model.eval(model.tokenize(prompt.encode()))
        started = time.perf_counter()
        for _ in range(arguments.plain_tokens):
            model.eval([model.sample(temp=0.0)])
        yield {"decode_tokens_per_second": arguments.plain_tokens / (time.perf_counter() - started)}


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    sys.exit(main())
