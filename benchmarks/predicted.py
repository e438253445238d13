"""What plans predict beside what runs measure, term by term.

    python benchmarks/predicted.py --model DIR --device-memory 1GB --draft-model assets/demo-draft --forget \\
        --out assets/results/NAME.json

The questions come in blocks. Every block is planned, then asked, then learned from as by run-benchmark: so the first
plan of a method rests on assumptions, and each later one on the blocks before, of which no question is asked again.
Methods take turns question by question, since a machine is not equally fast at all times. Quoted is the error over all
blocks but the first: of the tokens that they yielded, the seconds that the plans expected over those that they took.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a clone that is not installed

import torch

from benchmarks.receipt import write_receipt
from specdecodes.benchmark.questions.mt_bench import BUNDLED
from specdecodes.benchmark.questions.sources import question, read_samples
from specdecodes.cli.run_cache import cleared
from specdecodes.config import Draft, Memory, Pipeline, Target, apply_overrides
from specdecodes.errors import reported
from specdecodes.folders import cache_folder
from specdecodes.generator import Generator
from specdecodes.methods import build, learn, plan_for
from specdecodes.offload.planning.plan import Placement
from specdecodes.offload.planning.terms import compare
from specdecodes.prompts import Prompt
from specdecodes.sampling import SamplingParams
from specdecodes.stats import Generation, summarize

SPEED = "decode_tokens_per_second"
WARM_TOKENS = 6


@reported()
def main() -> None:
    arguments = _arguments()
    if arguments.forget:
        print(cleared(cache_folder(), ["measured.json"]))
    blocks = measure(arguments)
    methods = {method: overall(blocks, method) for method in arguments.methods.split(",")}
    print(table(methods))
    largest = max(abs(row["error"]) for row in methods.values())
    write_receipt(arguments.out, {"methods": methods, "largest_error": largest, "blocks": blocks})


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="a checkpoint folder")
    parser.add_argument("--draft-model", help="for classic_sd")
    parser.add_argument("--device-memory", help="budget, like 1GB; what is free if left out")
    parser.add_argument("--methods", default="vanilla,subspec_sd,classic_sd,ngram_sd")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="of every method")
    parser.add_argument("--blocks", type=int, default=4, help="of questions; the first one is not counted")
    parser.add_argument("--prompts", type=int, default=8, help="questions of a block")
    parser.add_argument("--tokens", type=int, default=64, help="tokens of an answer")
    parser.add_argument("--tokens-of", action="append", default=[], metavar="METHOD=N", help="of one method's answers")
    parser.add_argument("--max-length", type=int, default=640)
    parser.add_argument("--repetition-penalty", type=float, default=1.2, help="keeps a small model out of loops")
    parser.add_argument("--forget", action="store_true", help="first drop what earlier runs on this machine showed")
    parser.add_argument("--out", type=Path, required=True, help="the receipt, a JSON file")
    return parser.parse_args()


@dataclass
class PlannedArm:
    """A method's generator, which is loaded anew where a later plan places layers otherwise."""

    pipeline: Pipeline
    generator: Generator | None = None

    def placed(self, placement: Placement) -> Generator:
        if self.generator is None or layout(self.generator.placement) != layout(placement):
            self.close()
            self.generator = build(self.pipeline, placement, progress=lambda text: None)
            warm = replace(self.pipeline.sampling, max_tokens=WARM_TOKENS)
            self.generator.generate(questions(1, 1)[0][0], warm)  # steps compile
        return self.generator

    def close(self) -> None:
        if self.generator is not None:
            self.generator.close()


def layout(placement: Placement) -> tuple[object, ...]:
    return placement.resident, placement.substituted, placement.stretch, placement.kernel


def questions(blocks: int, prompts: int) -> list[list[Prompt]]:
    """Blocks of the bundled questions and their second turns, each by itself, in an order that was drawn once."""
    asked = [[{"role": "user", "content": turn}] for sample in read_samples(BUNDLED, question) for turn in sample.turns]
    random.Random(0).shuffle(asked)
    return [
        [asked[place % len(asked)] for place in range(first, first + prompts)]
        for first in range(0, blocks * prompts, prompts)
    ]


def measure(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """All blocks of all methods."""
    arms = {method: PlannedArm(pipeline_of(arguments, method)) for method in arguments.methods.split(",")}
    rows: list[dict[str, Any]] = []
    try:
        for number, prompts in enumerate(questions(arguments.blocks, arguments.prompts)):
            plans = {method: plan_for(arm.pipeline) for method, arm in arms.items()}
            for method, answers in answers_of(arms, plans, prompts).items():
                summary = summarize(answers)
                learn(arms[method].pipeline, plans[method], summary)
                rows.append({"method": method, "block": number} | beside(plans[method], summary))
                print(told(rows[-1]), flush=True)
    finally:
        for arm in arms.values():
            arm.close()
    return rows


def answers_of(
    arms: Mapping[str, PlannedArm], plans: Mapping[str, Placement], prompts: Sequence[Prompt]
) -> dict[str, list[Generation]]:
    """What every method answers to the questions of a block, in an order that turns around each time."""
    generators = {method: arms[method].placed(plan) for method, plan in plans.items()}
    answers: dict[str, list[Generation]] = {method: [] for method in arms}
    for place, prompt in enumerate(prompts):
        for method in arms if place % 2 else reversed(arms):
            answers[method].append(generators[method].generate(prompt, arms[method].pipeline.sampling))
    return answers


def pipeline_of(arguments: argparse.Namespace, method: str) -> Pipeline:
    own = dict(text.split("=") for text in arguments.tokens_of)
    tokens = int(own.get(method, arguments.tokens))
    pipeline = Pipeline(
        method,
        Target(arguments.model),
        Draft(model=arguments.draft_model if method == "classic_sd" else None),
        memory=Memory(device=arguments.device_memory),
        sampling=SamplingParams(max_tokens=tokens, repetition_penalty=arguments.repetition_penalty, ignore_eos=True),
        max_length=arguments.max_length,
    )
    return apply_overrides(pipeline, arguments.set)


def beside(placement: Placement, summary: Mapping[str, Any]) -> dict[str, Any]:
    """Predicted and measured speed, the error of the one against the other, the range, and the terms."""
    plan, measured = placement.predicted, summary[SPEED]
    terms = {
        line.term: {"predicted": line.predicted, "measured": line.measured, "effect": line.effect}
        for line in compare(plan, summary)
    }
    tokens = summary["rounds"] * summary["tokens_per_round"]
    return {
        "predicted": plan.tokens_per_second,
        "range": [plan.low, plan.high],
        "measured": measured,
        "error": plan.tokens_per_second / measured - 1.0,
        "tokens": tokens,
        "rounds": summary["rounds"],
        "speed_spread": summary["speed_spread"],
        "terms": terms,
        "plan": [list(row) for row in placement.rows()],
    }


def told(row: Mapping[str, Any]) -> str:
    """A block in a line: which terms were how far off, as shares of the speed."""
    low, high = row["range"]
    effects = {name: term["effect"] for name, term in row["terms"].items() if term["effect"] is not None}
    missed = ", ".join(f"{name} {effect:+.0%}" for name, effect in effects.items() if abs(effect) >= 0.01)
    return (
        f"{row['method']}, block {row['block']}: {low:.3g} to {high:.3g}, most likely {row['predicted']:.3g}; "
        f"measured {row['measured']:.3g}, {row['error']:+.0%} ({missed})"
    )


def overall(rows: Sequence[Mapping[str, Any]], method: str) -> dict[str, Any]:
    """A method's first block, and all later ones together, with the terms by which those were missed."""
    first, *later = (row for row in rows if row["method"] == method)
    counted = later or [first]
    tokens = sum(row["tokens"] for row in counted)
    predicted, measured = (tokens / sum(row["tokens"] / row[kind] for row in counted) for kind in KINDS)
    rounds = sum(row["rounds"] for row in counted)
    terms = {
        name: sum(row["rounds"] * row["terms"].get(name, {"effect": 0.0})["effect"] for row in counted) / rounds
        for name, term in counted[0]["terms"].items()
        if term["effect"] is not None
    }
    inside = sum(row["range"][0] <= row["measured"] <= row["range"][1] for row in counted)
    return {
        "first_error": first["error"],
        "first_range": first["range"],
        "first_measured": first["measured"],
        "predicted": predicted,
        "measured": measured,
        "error": predicted / measured - 1.0,
        "blocks": len(counted),
        "blocks_in_range": inside,
        "effects": terms,
    }


KINDS = ("predicted", "measured")
SHOWN = (
    ("tokens_per_round", "tokens"),
    ("draft_levels_per_round", "levels"),
    ("draft_step_s", "level s"),
    ("pass_s", "pass"),
    ("wait_s", "wait"),
    ("overhead_s", "rest"),
)


def table(methods: Mapping[str, Mapping[str, Any]]) -> str:
    """Speeds and errors as text, and what each term alone did to the prediction."""
    titles = ("first", "predicted", "measured", "error", "in range", *(title for _, title in SHOWN))
    lines = [" " * 12 + "".join(f"{title:>11}" for title in titles)]
    for method, row in methods.items():
        cells = [f"{row['first_error']:+.0%}", *(f"{row[kind]:.2f}" for kind in KINDS), f"{row['error']:+.1%}"]
        cells.append(f"{row['blocks_in_range']} of {row['blocks']}")
        cells += [f"{row['effects'][name]:+.1%}" if name in row["effects"] else "" for name, _ in SHOWN]
        lines.append(method.ljust(12) + "".join(f"{cell:>11}" for cell in cells))
    return "\n".join(lines)


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    main()
