"""Settings of one pipeline against each other: a switch off and on, or rounds that adapt beside fixed ones.

    python benchmarks/settings.py --model DIR --device-memory 1GB --set tree.depth=32 --set tree.nodes=48 \\
        --arm adaptive: --arm 4x8:tree.depth=8,tree.adaptive=off --arm plain:method=vanilla \\
        --out assets/results/NAME.json

An arm is `NAME:key=value,...`, added to what `--set` says of all. Arms answer the same prompts in turn, in an order
that turns around each time. Quoted are medians over the prompts, the terms of a mean round, ratios to the first arm
(of all tokens over all seconds, with the 95% interval of that; medians within a prompt, of the rounds alone and with
the prompt), and the first arm over the fastest other one, which is chosen in the other half of the prompts.

To tell 3% apart takes many short answers in turn, not a few long ones: a machine's speed wanders within seconds.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a clone that is not installed

import torch

from benchmarks.alternating import (
    agree,
    alternate,
    faster,
    faster_than_best,
    figures,
    link_used,
    medians,
    paired,
    questions,
)
from benchmarks.receipt import write_receipt
from specdecodes.config import Memory, Pipeline, Target, apply_overrides
from specdecodes.errors import ConfigError, reported
from specdecodes.generator import Generator
from specdecodes.methods import build
from specdecodes.models.loading import open_checkpoint
from specdecodes.offload.planning.predict import Prediction
from specdecodes.offload.storage.store import measure_read, probe
from specdecodes.sampling import SamplingParams
from specdecodes.stats import Generation

SPEED, WHOLE = "decode_tokens_per_second", "tokens_per_second"
SETTLED = 1.0  # seconds in which a ring is full again behind an answer, and the disk at rest
SHOWN = (
    ("tokens/s", SPEED, 1.0),
    ("tokens/round", "tokens_per_round", 1.0),
    ("levels", "levels_per_round", 1.0),
    ("level ms", "draft_step_s", 1e3),
    ("round ms", "round_s", 1e3),
    ("draft", "round_draft_s", 1e3),
    ("target", "round_target_s", 1e3),
    ("wait", "round_wait_s", 1e3),
    ("rest", "round_overhead_s", 1e3),
    ("expected", "predicted_tokens_per_second", 1.0),
    ("off by %", "predicted_tokens_per_second_error", 1e2),
    ("round off %", "predicted_round_s_error", 1e2),
    ("first ms", "time_to_first_token_s", 1e3),
    ("link busy %", "link_utilization", 1e2),
    ("link used %", "link_used", 1e2),
)


@reported()
def main() -> None:
    arguments = _arguments()
    receipt = measure(arguments)
    write_receipt(arguments.out, receipt)
    print(table(receipt))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="a checkpoint folder")
    parser.add_argument("--method", default="subspec_sd", help="of arms that do not say another")
    parser.add_argument("--device-memory", help="budget of every arm, like 1GB; what is free if left out")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="of every arm")
    parser.add_argument("--arm", action="append", required=True, metavar="NAME:KEY=VALUE,...")
    parser.add_argument("--rounds", type=int, default=6, help="prompts that count")
    parser.add_argument("--warm", type=int, default=2, help="prompts before those: steps compile, rounds adapt")
    parser.add_argument("--tokens", type=int, default=64, help="tokens of an answer")
    parser.add_argument("--plain-tokens", type=int, default=64, help="tokens of an answer of plain decoding")
    parser.add_argument("--times", type=int, default=1, help="so many times a question is in its prompt: long prompts")
    parser.add_argument("--max-length", type=int, default=640)
    parser.add_argument("--repetition-penalty", type=float, default=1.2, help="keeps a small model out of loops")
    parser.add_argument("--out", type=Path, required=True, help="the receipt, a JSON file")
    return parser.parse_args()


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Every arm on every prompt."""
    memory = Memory(device=arguments.device_memory)
    base = Pipeline(arguments.method, Target(arguments.model), memory=memory, max_length=arguments.max_length)
    base = apply_overrides(base, arguments.set)
    pipelines = dict(named(text, base) for text in arguments.arm)
    penalty = arguments.repetition_penalty
    params = SamplingParams(max_tokens=arguments.tokens, repetition_penalty=penalty, ignore_eos=True)
    plain = {name: arguments.plain_tokens for name, one in pipelines.items() if one.method == "vanilla"}
    rounds, warm, times = arguments.rounds, arguments.warm, arguments.times
    receipt = in_turn(pipelines, params, rounds=rounds, warm=warm, tokens=plain, times=times)
    return {"settings": {text.partition(":")[0]: text for text in arguments.arm}} | receipt


def in_turn(
    pipelines: Mapping[str, Pipeline],
    params: SamplingParams,
    *,
    rounds: int,
    warm: int,
    tokens: Mapping[str, int],
    times: int = 1,
) -> dict[str, Any]:
    """What `rounds` prompts after `warm` ones showed of pipelines that are alike but in their settings; `tokens` limits
    the answers of those that it names, and a question is in its prompt so many `times`."""
    asked = [[{**words, "content": " ".join([words["content"]] * times)}] for (words,) in questions()]
    prompts = [asked[place % len(asked)] for place in range(warm + rounds)]
    disk: dict[str, list[float]] = {name: [] for name in pipelines}
    arms: dict[str, Generator] = {}

    def read_bare(name: str) -> None:
        streams = bool(arms[name].placement.streamed)
        disk[name].append(bare_gbps(pipelines[name].target.model) if streams else 0.0)

    try:
        for name, pipeline in pipelines.items():
            arms[name] = build(pipeline, progress=lambda text, name=name: print(f"[{name}] {text}", flush=True))
        answered = alternate(arms, prompts, params, tokens=tokens, warm=warm, before=read_bare)
    finally:
        for generator in arms.values():
            generator.close()
    plans = {name: [list(row) for row in arm.placement.rows()] for name, arm in arms.items()}
    found = compared(answered, {name: speeds[warm:] for name, speeds in disk.items()})
    for name, row in found["medians"].items():
        row.update(expected(arms[name].placement.predicted, row))
    return found | {"plans": plans}


def expected(plan: Prediction, measured: Mapping[str, float]) -> dict[str, float]:
    """What an arm's plan said, and how far that was from what was measured."""
    pairs = {"tokens_per_second": (plan.tokens_per_second, SPEED), "round_s": (plan.round_s, "round_s")}
    return {f"predicted_{name}": said for name, (said, _) in pairs.items()} | {
        f"predicted_{name}_error": said / measured[key] - 1.0 for name, (said, key) in pairs.items() if measured[key]
    }


def bare_gbps(model: str) -> float:
    """GB/s at which a checkpoint's files are read directly just now, by nobody else."""
    time.sleep(SETTLED)
    files = open_checkpoint(model).files
    return measure_read(files, direct=probe(files[0]).direct, max_bytes=512 * 10**6)


def named(text: str, base: Pipeline) -> tuple[str, Pipeline]:
    """An arm's name and pipeline. Raises ConfigError."""
    name, colon, settings = text.partition(":")
    if not (name and colon):
        raise ConfigError(f"'{text}' is no arm; write --arm NAME:key=value,key=value.")
    return name, apply_overrides(base, settings.split(",") if settings else [])


def compared(rounds: Sequence[Mapping[str, Generation]], disk: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    """Rows of all arms, their medians and their ratios; `disk`: its bare GB/s ahead of each answer."""
    rows = [{name: figures([answer]) for name, answer in answers.items()} for answers in rounds]
    for number, answers in enumerate(rows):
        for name, row in answers.items():
            row.update(disk_gbps=disk[name][number], link_used=link_used(row, disk[name][number]))
    first, *others = rows[0]
    middle = {name: medians([row[name] for row in rows]) for name in rows[0]}
    speeds, wholes = ({name: [row[name][key] for row in rows] for name in rows[0]} for key in (SPEED, WHOLE))
    firsts = [answers[first] for answers in rows]
    found: dict[str, Any] = {
        "medians": middle,
        "over_first": {name: faster([answers[name] for answers in rows], firsts) for name in speeds},
        "ratios": {name: paired(speeds[name], speeds[first]) for name in speeds},
        "ratios_with_prompt": {name: paired(wholes[name], wholes[first]) for name in wholes},
        "same_tokens": [agree([answer.tokens for answer in answers.values()]) for answers in rounds],
    }
    if others:
        found["first_over_best_other"] = faster_than_best(rows, first)
    return found | {"rounds": rows}


def table(receipt: Mapping[str, Any]) -> str:
    """The medians as text, the ratios to the first arm in front."""
    width = max(len(name) for name in receipt["medians"])
    titles = ("over first", "at least", "at most", "in a prompt", "with prompt", *(title for title, _, _ in SHOWN))
    lines = [" " * width + "".join(f"{title:>14}" for title in titles)]
    for name, row in receipt["medians"].items():
        over = receipt["over_first"][name]
        ratios = [receipt[of][name]["median"] for of in ("ratios", "ratios_with_prompt")]
        cells = [
            over["ratio"],
            *(over["interval"] or [0.0, math.inf]),
            *ratios,
            *(row.get(key, 0.0) * scale for _, key, scale in SHOWN),
        ]
        lines.append(name.ljust(width) + "".join(f"{cell:>14.3f}" for cell in cells))
    if best := receipt.get("first_over_best_other"):
        first = next(iter(receipt["medians"]))
        low, high = best["interval"] or (0.0, math.inf)
        others = " and ".join(dict.fromkeys(best["chosen"]))
        lines.append(
            f"{first} over {others}, the fastest in the other half: {best['ratio']:.3f} ({low:.3f} to {high:.3f})"
        )
        lines.append(f"over {best['hindsight']['other']}, the fastest in hindsight: {best['hindsight']['ratio']:.3f}")
    return "\n".join(lines)


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    main()
