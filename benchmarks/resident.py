"""A model that fits in memory: drafts of the model's own weights beside its plain decoding, alternating.

    python benchmarks/resident.py --model DIR --out assets/results/NAME.json
    python benchmarks/resident.py --model DIR --arms share_sd/none/int4,qspec/w4a16 --no-peers --out NAME.json

Not exact: plain decoding runs one row a step, as fast as it can. An arm is METHOD, METHOD/TARGET or
METHOD/TARGET/DRAFT, with the schemes of `target.quant` and `draft.quant`; plain decoding of its target's precision runs
beside it and is what it is measured against. Peers are Transformers' generate, eager, and with a static cache and a
compiled forward. Same prompts, greedy. Quoted are medians over the prompts; the first prompt warms up and is left out.
Ctrl-C, or a kill, keeps what was measured.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a clone that is not installed

import torch
from transformers import AutoModelForCausalLM

from benchmarks.alternating import paired, questions, take_turns
from benchmarks.receipt import write_receipt
from specdecodes.config import Draft, Pipeline, Target, Tree
from specdecodes.errors import reported
from specdecodes.generator import Generator
from specdecodes.methods import build
from specdecodes.quant import FULL
from specdecodes.sampling import SamplingParams

Figures = dict[str, Any]
"""Of one answer: its tokens, decode tokens/s, and more of ours."""
Answer = Callable[[list[int], int], Figures]
"""Prompt and number of tokens in."""
Row = Mapping[str, Figures]
"""What every arm made of one prompt."""
PLAIN = "vanilla"


@dataclass(frozen=True)
class Contestant:
    """One way to decode, as `METHOD/TARGET/DRAFT` spells it."""

    method: str
    target: str = FULL
    draft: str = "auto"

    @property
    def name(self) -> str:
        return "/".join((self.method, self.target, self.draft)).removesuffix("/auto").removesuffix(f"/{FULL}")

    @property
    def plain(self) -> Contestant:
        """Plain decoding in the target's precision."""
        return Contestant(PLAIN, self.target)


@reported()
def main() -> None:
    arguments = _arguments()
    receipt = measure(arguments)
    write_receipt(arguments.out, receipt, indent=None)
    told = ("medians", "ratios_to_plain", "same_tokens", "terms")
    print(json.dumps({key: receipt[key] for key in told}, indent=1))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="a checkpoint folder")
    parser.add_argument("--arms", default="subspec_sd", help="separated by commas")
    parser.add_argument("--rounds", type=int, default=5, help="prompts, each answered by every arm")
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--width", type=int, default=1)
    parser.add_argument("--depth", type=int, default=6)
    parser.add_argument("--nodes", type=int, default=8)
    parser.add_argument("--adaptive", action=argparse.BooleanOptionalAction, default=True, help="depth by round")
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--peers", action=argparse.BooleanOptionalAction, default=True, help="Transformers beside us")
    parser.add_argument("--compiled-peer", action=argparse.BooleanOptionalAction, default=True, help="slow to compile")
    parser.add_argument("--out", type=Path, required=True, help="the receipt, a JSON file")
    return parser.parse_args()


def arms_of(text: str) -> list[Contestant]:
    """The arms that `text` names, each behind the plain decoding that it is measured against."""
    named = [Contestant(*spelled.split("/")) for spelled in text.split(",")]
    return list(dict.fromkeys(each for arm in named for each in (arm.plain, arm)))


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Every arm on every prompt."""
    arms = {arm: open_arm(arguments, arm) for arm in arms_of(arguments.arms)}
    answers = {arm.name: ours(generator) for arm, generator in arms.items()}
    answers |= peers(arguments) if arguments.peers else {}
    prompts = [next(iter(arms.values())).encode(words) for words in questions()[: arguments.rounds + 1]]

    def ask(name: str, prompt: list[int]) -> Figures:
        return answers[name](prompt, arguments.tokens)

    rounds = take_turns(list(answers), prompts, ask, lambda made: made["tokens_per_second"], warm=1)
    return compared(rounds, list(arms)) | {"kernels": {arm.name: made.origin.kernel for arm, made in arms.items()}}


def compared(rounds: Sequence[Row], arms: Sequence[Contestant]) -> dict[str, Any]:
    """What prompts showed of `arms`, plain decoding first, and of peers, which are held against that."""
    base = dict.fromkeys(rounds[0], arms[0].name) | {arm.name: arm.plain.name for arm in arms}
    speeds = {name: [row[name]["tokens_per_second"] for row in rounds] for name in base}
    return {
        "medians": {name: statistics.median(found) for name, found in speeds.items()},
        "ratios_to_plain": {name: paired(speeds[name], speeds[plain])["median"] for name, plain in base.items()},
        "same_tokens": {name: sum(r[name]["tokens"] == r[base[name]]["tokens"] for r in rounds) for name in base},
        "terms": {arm.name: terms(rounds, arm) for arm in arms if arm.method != PLAIN},
        "rounds": rounds,
    }


def terms(rounds: Sequence[Row], arm: Contestant) -> dict[str, Any]:
    """What bounds an arm's ratio to plain decoding: medians of its steps in plain steps, the ratio that they give, the
    ratio if drafting were free, if a pass over a tree cost a plain step, and what a round spends most on."""

    def median(name: str, of: str) -> float:
        return statistics.median(row[of][name] for row in rounds)

    step = median("target_s", arm.plain.name)
    tokens, levels = (median(name, arm.name) for name in ("tokens_per_round", "levels_per_round"))
    draft, target = (median(name, arm.name) / step for name in ("draft_step_s", "target_s"))
    drafting = levels * draft
    return {
        "tokens_per_round": tokens,
        "levels_per_round": levels,
        "plain_step_s": step,
        "draft_step_in_plain_steps": draft,
        "pass_in_plain_steps": target,
        "ratio_of_these": tokens / (drafting + target),
        "ratio_if_drafts_were_free": tokens / target,
        "ratio_if_a_pass_were_a_plain_step": tokens / (drafting + 1.0),
        "limit": f"drafting, {drafting / (drafting + target):.0%} of a round"
        if drafting > target
        else f"the pass over the tree, {target / (drafting + target):.0%} of a round",
    }


def open_arm(arguments: argparse.Namespace, arm: Contestant) -> Generator:
    pipeline = Pipeline(
        arm.method,
        Target(arguments.model, quant=arm.target),
        Draft(quant=arm.draft),
        Tree(arguments.width, arguments.depth, arguments.nodes, adaptive=arguments.adaptive),
        max_length=512,
        exact=False,
        compile=arguments.compile,
    )
    return build(pipeline, progress=lambda text: print(f"[{arm.name}] {text}", flush=True))


def ours(generator: Generator) -> Answer:
    def answer(prompt: list[int], tokens: int) -> Figures:
        made = generator.generate(prompt, SamplingParams(max_tokens=tokens, ignore_eos=True))
        count, levels = len(made.rounds), sum(r.levels for r in made.rounds)
        return {
            "tokens_per_second": made.decode_tokens_per_second,
            "tokens": list(made.tokens),
            "tau": made.tau,
            "tokens_per_round": made.tokens_per_round,
            "levels_per_round": levels / count,
            "draft_step_s": sum(r.seconds["draft"] for r in made.rounds) / levels if levels else 0.0,
            "target_s": sum(r.seconds["target"] for r in made.rounds) / count,
        }

    return answer


def peers(arguments: argparse.Namespace) -> dict[str, Answer]:
    model = AutoModelForCausalLM.from_pretrained(arguments.model, dtype=torch.bfloat16)
    found = {"transformers eager": theirs(model, {})}
    if arguments.compiled_peer:
        static = {"cache_implementation": "static"}
        found["transformers compiled"] = theirs(model, static, torch.compile(model.forward))
    return found


def theirs(model: Any, options: dict[str, Any], forward: Any = None) -> Answer:
    """Transformers' generate; the first token's time is measured by a call of its own and taken off."""
    plain_forward = model.forward

    def answer(prompt: list[int], tokens: int) -> Figures:
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
        speed = (tokens - 1) / (seconds[1] - seconds[0])
        return {"tokens_per_second": speed, "tokens": made[0, len(prompt) :].tolist()}

    return answer


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    main()
