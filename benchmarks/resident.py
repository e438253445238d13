"""A model that fits in memory: our plain and self-drafted decoding beside Transformers' generate, alternating.

    python benchmarks/resident.py --model DIR --out assets/results/NAME.json

Not exact: plain decoding runs one row a step, as fast as it can. Arms: `vanilla` and `subspec_sd` (4-bit self draft)
of this project, compiled; Transformers' generate eager, and with a static cache and a compiled forward. Same prompts,
greedy. Quoted are medians over the prompts and their ratios to our plain decoding; the first prompt warms up and is
left out.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a clone that is not installed

import torch
from transformers import AutoModelForCausalLM

from benchmarks.receipt import write_receipt
from specdecodes.benchmark.mt_bench import BUNDLED
from specdecodes.benchmark.sources import question, read_samples
from specdecodes.config import Pipeline, Target, Tree
from specdecodes.generator import Generator
from specdecodes.methods import build
from specdecodes.sampling import SamplingParams

Arm = Callable[[list[int], int], tuple[tuple[int, ...], float, dict[str, float]]]
"""Prompt and number of tokens in; tokens, decode tokens/s, and other figures out."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="a checkpoint folder")
    parser.add_argument("--rounds", type=int, default=5, help="prompts, each answered by every arm")
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--width", type=int, default=1)
    parser.add_argument("--depth", type=int, default=6)
    parser.add_argument("--nodes", type=int, default=8)
    parser.add_argument("--compiled-peer", action=argparse.BooleanOptionalAction, default=True, help="slow to compile")
    parser.add_argument("--out", type=Path, required=True, help="the receipt, a JSON file")
    arguments = parser.parse_args()
    tree = Tree(arguments.width, arguments.depth, arguments.nodes)
    generators = {method: open_arm(arguments.model, method, tree) for method in ("vanilla", "subspec_sd")}
    arms: dict[str, Arm] = {method: ours(generator) for method, generator in generators.items()}
    model = AutoModelForCausalLM.from_pretrained(arguments.model, dtype=torch.bfloat16)
    arms["transformers eager"] = theirs(model, {})
    if arguments.compiled_peer:
        arms["transformers compiled"] = theirs(model, {"cache_implementation": "static"}, torch.compile(model.forward))
    questions = [sample.turns[0] for sample in read_samples(BUNDLED, question)][: arguments.rounds + 1]
    rounds: list[dict[str, Any]] = []
    for number, text in enumerate(questions):
        prompt = generators["vanilla"].encode([{"role": "user", "content": text}])
        row = {}
        for name, arm in arms.items():
            tokens, speed, more = arm(prompt, arguments.tokens)
            row[name] = {"tokens_per_second": speed, "tokens": list(tokens), **more}
        print(
            f"prompt {number}: " + ", ".join(f"{n} {row[n]['tokens_per_second']:.2f} tok/s" for n in arms), flush=True
        )
        if number:
            rounds.append(row)
    medians = {name: statistics.median(row[name]["tokens_per_second"] for row in rounds) for name in arms}
    base = [row["vanilla"]["tokens_per_second"] for row in rounds]
    ratios = {
        name: statistics.median(row[name]["tokens_per_second"] / plain for row, plain in zip(rounds, base, strict=True))
        for name in arms
    }
    receipt = {
        "medians": medians,
        "ratios_to_vanilla": ratios,
        "same_tokens": {name: sum(r[name]["tokens"] == r["vanilla"]["tokens"] for r in rounds) for name in arms},
        "kernel": generators["subspec_sd"].origin.kernel,
        "rounds": rounds,
    }
    write_receipt(arguments.out, receipt, indent=None)
    print(json.dumps({key: receipt[key] for key in ("medians", "ratios_to_vanilla", "same_tokens")}, indent=1))


def open_arm(model: str, method: str, tree: Tree) -> Generator:
    pipeline = Pipeline(method, Target(model), tree=tree, max_length=512, exact=False)
    return build(pipeline, progress=lambda text: print(f"[{method}] {text}", flush=True))


def ours(generator: Generator) -> Arm:
    def answer(prompt: list[int], tokens: int) -> tuple[tuple[int, ...], float, dict[str, float]]:
        made = generator.generate(prompt, SamplingParams(max_tokens=tokens, ignore_eos=True))
        steps = sum(r.levels for r in made.rounds)
        draft = sum(r.seconds["draft"] for r in made.rounds) / steps if steps else 0.0
        target = sum(r.seconds["target"] for r in made.rounds) / len(made.rounds)
        more = {"tau": made.tau, "draft_step_s": draft, "target_s": target}
        return made.tokens, made.decode_tokens_per_second, more

    return answer


def theirs(model: Any, options: dict[str, Any], forward: Any = None) -> Arm:
    """Transformers' generate; the first token's time is measured by a call of its own and taken off."""
    plain_forward = model.forward

    def answer(prompt: list[int], tokens: int) -> tuple[tuple[int, ...], float, dict[str, float]]:
        model.forward = forward or plain_forward
        seconds, made = [], torch.empty(0)
        for count in (1, tokens):
            started = time.perf_counter()
            made = model.generate(
                torch.tensor([prompt]),
                attention_mask=torch.ones(1, len(prompt)),
                do_sample=False,
                min_new_tokens=count,
                max_new_tokens=count,
                pad_token_id=0,
                **options,
            )
            seconds.append(time.perf_counter() - started)
        model.forward = plain_forward
        return tuple(made[0, len(prompt) :].tolist()), (tokens - 1) / (seconds[1] - seconds[0]), {}

    return answer


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    main()
