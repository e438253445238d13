"""Plain, classic, EAGLE and SubSpec decoding of one streamed model, in turn, the disk's own speed beside every arm.

    python benchmarks/streamed.py --model DIR --device-memory 1GB --out assets/results/NAME.json

All arms share target, budget, exactness, prompts and clock: settings.py, whose arms are methods. Ahead of each answer
the file is read directly: the disk's speed just then, of which `link_used` is a share. The first prompt warms up.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a clone that is not installed

import torch

from benchmarks.receipt import write_receipt
from benchmarks.settings import in_turn, table
from specdecodes.config import Draft, Memory, Pipeline, Target, Tree
from specdecodes.errors import reported
from specdecodes.sampling import SamplingParams


@reported()
def main() -> None:
    arguments = _arguments()
    receipt = measure(arguments)
    write_receipt(arguments.out, receipt)
    print(table(receipt))


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
    """Every arm on every prompt."""
    arms = {method: pipeline_of(arguments, method) for method in arguments.arms.split(",")}
    params = SamplingParams(
        max_tokens=arguments.tokens,
        temperature=arguments.temperature,
        repetition_penalty=arguments.repetition_penalty,
        ignore_eos=True,
    )
    return in_turn(arms, params, rounds=arguments.rounds, warm=1, tokens={"vanilla": arguments.plain_tokens})


def pipeline_of(arguments: argparse.Namespace, method: str) -> Pipeline:
    """One arm: the same target, budget and arithmetic for all."""
    model = {"classic_sd": arguments.draft_model, "eagle_sd": arguments.head}.get(method)
    return Pipeline(
        method=method,
        target=Target(arguments.model),
        draft=Draft(model, temperature=1.0) if model else Draft(quant=arguments.draft_quant),
        tree=Tree(arguments.width, arguments.depth, arguments.nodes),
        memory=Memory(device=arguments.device_memory),
        max_length=arguments.max_length,
        exact=arguments.exact,
        compile=not arguments.eager,
    )


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    main()
