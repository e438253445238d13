"""Plain, classic, EAGLE and SubSpec decoding of one streamed model, alternating, the disk's own speed beside every arm.

    python benchmarks/streamed.py --model DIR --device-memory 1GB --out assets/results/NAME.json

All arms share target, budget, exactness, prompts and clock. Ahead of each answer the file is read directly: the disk's
speed just then, of which `link_used` is a share. Every arm answers the same prompt. Quoted are medians over the rounds
and their ratios.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a clone that is not installed

from benchmarks.alternating import agree, figures, link_used, medians, paired, questions
from benchmarks.receipt import write_receipt
from specdecodes.config import Draft, Memory, Pipeline, Target, Tree
from specdecodes.errors import reported
from specdecodes.generator import Generator
from specdecodes.methods import build
from specdecodes.offload.storage.store import measure_read, probe, read_index
from specdecodes.sampling import SamplingParams


@reported()
def main() -> None:
    arguments = _arguments()
    receipt = measure(arguments)
    write_receipt(arguments.out, receipt)
    print(json.dumps({key: receipt[key] for key in ("ratios", "medians")}, indent=1))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="a checkpoint folder")
    parser.add_argument("--draft-model", help="drafts in the arm classic_sd")
    parser.add_argument("--head", help="the EAGLE head of the arm eagle_sd")
    parser.add_argument("--draft-quant", default="auto", help="scheme of the drafts that are the target's own weights")
    parser.add_argument("--device-memory", required=True, help="budget of every arm, like 1GB")
    parser.add_argument("--arms", default="vanilla,subspec_sd", help="methods, the first is the baseline")
    parser.add_argument("--rounds", type=int, default=5, help="prompts, each answered by every arm")
    parser.add_argument("--tokens", type=int, default=64, help="tokens an answer at most")
    parser.add_argument("--plain-tokens", type=int, default=12, help="tokens of a plain answer at most")
    parser.add_argument("--width", type=int, default=4)
    parser.add_argument("--depth", type=int, default=32)
    parser.add_argument("--nodes", type=int, default=64)
    parser.add_argument("--max-length", type=int, default=1024)
    parser.add_argument("--exact", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--eager", action="store_true")
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument("--repetition-penalty", type=float, default=1.2, help="keeps a small model out of loops")
    parser.add_argument("--out", type=Path, required=True, help="the receipt, a JSON file")
    return parser.parse_args()


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Every arm on every prompt; returns the rounds, the medians and their ratios to the first arm."""
    paths = sorted({span.path for span in read_index(Path(arguments.model)).values()})
    direct = probe(paths[0]).direct
    arms = {method: open_arm(arguments, method) for method in arguments.arms.split(",")}
    params = SamplingParams(
        max_tokens=arguments.tokens,
        temperature=arguments.temperature,
        repetition_penalty=arguments.repetition_penalty,
        ignore_eos=True,
    )
    prompts = questions()[: arguments.rounds + 1]
    rounds: list[dict[str, Any]] = []
    for number, prompt in enumerate(prompts):
        row: dict[str, Any] = {"prompt": prompt[0]["content"]}
        answers = {}
        for method, generator in arms.items():
            tokens = arguments.plain_tokens if method == "vanilla" else arguments.tokens
            before = measure_read(paths, direct=direct, max_bytes=512 * 10**6)
            answers[method] = generator.generate(prompt, replace(params, max_tokens=tokens))
            row[method] = figures([answers[method]]) | {"disk_gbps": before}
            row[method]["link_used"] = link_used(row[method], before)
        row["same_tokens"] = agree([answer.tokens for answer in answers.values()])
        print(
            f"prompt {number}: " + ", ".join(f"{m} {row[m]['decode_tokens_per_second']:.2f} tok/s" for m in arms),
            flush=True,
        )
        if number:  # the first prompt compiles and warms up
            rounds.append(row)
    for generator in arms.values():
        generator.close()
    speeds = {method: [row[method]["decode_tokens_per_second"] for row in rounds] for method in arms}
    base = next(iter(arms))
    ratios = {method: paired(speeds[method], speeds[base])["median"] for method in arms}
    middle = {method: medians([row[method] for row in rounds]) for method in arms}
    plans = {method: dict(plan=[list(row) for row in arm.placement.rows()]) for method, arm in arms.items()}
    return {"rounds": rounds, "medians": middle, "ratios": ratios, "plans": plans}


def open_arm(arguments: argparse.Namespace, method: str) -> Generator:
    """One arm's generator: the same target, budget and arithmetic for all."""
    models = {"classic_sd": arguments.draft_model, "eagle_sd": arguments.head}
    model = models.get(method)
    pipeline = Pipeline(
        method=method,
        target=Target(arguments.model),
        draft=Draft(model, temperature=1.0) if model else Draft(quant=arguments.draft_quant),
        tree=Tree(arguments.width, arguments.depth, arguments.nodes),
        memory=Memory(device=arguments.device_memory),
        max_length=arguments.max_length,
        exact=arguments.exact,
        compile=not arguments.eager,
    )
    return build(pipeline, progress=lambda text: print(f"[{method}] {text}", flush=True))


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    main()
