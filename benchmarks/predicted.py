"""What plans predict beside what runs measure: as planned first, after a run has been learned from, on other questions.

    python benchmarks/predicted.py --model DIR --device-memory 1GB --draft-model assets/demo-draft --forget \\
        --out assets/results/NAME.json

Every method runs three times: on some questions, on the same again, and on others. Each run is learned from, as those
of run-benchmark are, so the second plan rests on the first run, and the third on both.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a clone that is not installed

import torch

from benchmarks.alternating import questions
from benchmarks.receipt import write_receipt
from specdecodes.cli.run_cache import cleared
from specdecodes.config import Draft, Memory, Pipeline, Target, apply_overrides
from specdecodes.errors import SpecDecodesError, fail
from specdecodes.folders import cache_folder
from specdecodes.methods import build, learn, plan_for
from specdecodes.offload.plan import Placement
from specdecodes.offload.predict import compare
from specdecodes.sampling import SamplingParams
from specdecodes.stats import summarize

SPEED = "decode_tokens_per_second"


def main() -> None:
    arguments = _arguments()
    if arguments.forget:
        print(cleared(cache_folder(), ["measured.json"]))
    try:
        runs = measure(arguments)
    except SpecDecodesError as error:
        fail(error)
    errors = {f"{run['method']}, {run['run']}": run["error"] for run in runs}
    learned = [abs(run["error"]) for run in runs if run["run"] != "first"]
    write_receipt(arguments.out, {"errors": errors, "largest_learned_error": max(learned), "runs": runs})


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="a checkpoint folder")
    parser.add_argument("--draft-model", help="for classic_sd")
    parser.add_argument("--device-memory", help="budget, like 1GB; what is free if left out")
    parser.add_argument("--methods", default="vanilla,subspec_sd,classic_sd,ngram_sd")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="of every method")
    parser.add_argument("--prompts", type=int, default=4, help="questions of a run")
    parser.add_argument("--tokens", type=int, default=64, help="tokens of an answer")
    parser.add_argument("--plain-tokens", type=int, default=64, help="tokens of an answer of plain decoding")
    parser.add_argument("--max-length", type=int, default=640)
    parser.add_argument("--repetition-penalty", type=float, default=1.2, help="keeps a small model out of loops")
    parser.add_argument("--forget", action="store_true", help="first drop what earlier runs on this machine showed")
    parser.add_argument("--out", type=Path, required=True, help="the receipt, a JSON file")
    return parser.parse_args()


def measure(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """All runs of all methods, those of a kind together."""
    asked, count = questions(), arguments.prompts
    kinds = {"first": asked[:count], "again": asked[:count], "other questions": asked[count : 2 * count]}
    runs = []
    for kind, prompts in kinds.items():
        for method in arguments.methods.split(","):
            pipeline = pipeline_of(arguments, method)
            placement = plan_for(pipeline)
            summary = run(pipeline, placement, prompts, warm=asked[-1])
            learn(pipeline, placement, summary)
            runs.append({"method": method, "run": kind} | beside(placement, summary))
            print(
                "{method}, {run}: predicted {predicted:.2f}, measured {measured:.2f}, {error:+.0%}".format(**runs[-1])
            )
    return runs


def pipeline_of(arguments: argparse.Namespace, method: str) -> Pipeline:
    tokens = arguments.plain_tokens if method == "vanilla" else arguments.tokens
    pipeline = Pipeline(
        method,
        Target(arguments.model),
        Draft(model=arguments.draft_model if method == "classic_sd" else None),
        memory=Memory(device=arguments.device_memory),
        sampling=SamplingParams(max_tokens=tokens, repetition_penalty=arguments.repetition_penalty, ignore_eos=True),
        max_length=arguments.max_length,
    )
    return apply_overrides(pipeline, arguments.set)


def run(
    pipeline: Pipeline,
    placement: Placement,
    prompts: Sequence[list[dict[str, str]]],
    *,
    warm: list[dict[str, str]],
) -> dict[str, Any]:
    """The summary of the answers to `prompts`; an answer to `warm` goes before: steps compile, rounds adapt."""
    with build(pipeline, placement, progress=lambda text: None) as generator:
        generator.generate(warm, pipeline.sampling)
        return summarize([generator.generate(prompt, pipeline.sampling) for prompt in prompts])


def beside(placement: Placement, summary: Mapping[str, Any]) -> dict[str, Any]:
    """Predicted and measured speed, the error of the one against the other, and the terms."""
    predicted, measured = placement.predicted.tokens_per_second, summary[SPEED]
    terms = {
        line.term: {"predicted": line.predicted, "measured": line.measured}
        for line in compare(placement.predicted, summary)
    }
    plan = [list(row) for row in placement.rows()]
    error = predicted / measured - 1.0
    return {"predicted": predicted, "measured": measured, "error": error, "terms": terms, "plan": plan}


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    main()
