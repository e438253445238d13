"""Lets a target answer prompts, many at once, and writes the chats: what a head learns best from is the target's own.

    python -m specdecodes.train.data_gen.answers --out chats.jsonl --target MODEL --count 600

The target is run by Transformers, which answers a whole batch together; it has to fit in memory. Half of the answers
are greedy, half sampled. Stopped, the same command goes on.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from specdecodes.errors import reported
from specdecodes.models.loading import load_tokenizer, locate
from specdecodes.train.corpora import Message
from specdecodes.train.data_gen.prompts import prompts

DEMO = Path(__file__).resolve().parents[3] / "assets" / "demo"
"""The target unless another is named."""


@dataclass(frozen=True)
class AnswerPlan:
    """How prompts are answered; the repetition penalty is the demo pipelines'."""

    out: Path
    target: str = str(DEMO)
    count: int = 600
    batch_size: int = 256
    max_tokens: int = 200
    temperature: float = 0.8
    repetition_penalty: float = 1.2
    seed: int = 0


def write_answers(plan: AnswerPlan) -> None:
    """Append the chats that `plan.out` lacks, a batch at a time."""
    from transformers import AutoModelForCausalLM

    openings = prompts(plan.count, plan.seed)
    done = _whole_lines(plan.out)
    if done >= len(openings):
        return
    folder = locate(plan.target)
    tokenizer = load_tokenizer(folder)
    tokenizer.padding_side = "left"
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto").to(device).eval()
    starts = range(done - done % plan.batch_size, len(openings), plan.batch_size)
    for start in tqdm(starts, desc="answers", unit="batch", disable=None):
        torch.manual_seed(plan.seed + start)
        chats = _answer(plan, model, tokenizer, openings[start : start + plan.batch_size])
        with plan.out.open("a", encoding="utf-8") as file:
            for chat in chats[max(0, done - start) :]:
                file.write(json.dumps({"messages": chat}, ensure_ascii=False) + "\n")


def _answer(plan: AnswerPlan, model: Any, tokenizer: Any, openings: Sequence[tuple[str, ...]]) -> list[list[Message]]:
    chats: list[list[Message]] = [[] for _ in openings]
    for turn in range(max(map(len, openings))):
        asked = [place for place, turns in enumerate(openings) if len(turns) > turn and len(chats[place]) == 2 * turn]
        for sampled in (False, True):
            places = [place for place in asked if place % 2 == sampled]
            for place in places:
                chats[place].append({"role": "user", "content": openings[place][turn]})
            answers = _generate(plan, model, tokenizer, [chats[place] for place in places], sampled)
            for place, answer in zip(places, answers, strict=True):
                if answer:
                    chats[place].append({"role": "assistant", "content": answer})
                else:  # a model may have nothing to say
                    chats[place].pop()
    return chats


@torch.inference_mode()
def _generate(plan: AnswerPlan, model: Any, tokenizer: Any, chats: Sequence[list[Message]], sampled: bool) -> list[str]:
    if not chats:
        return []
    encoded = tokenizer.apply_chat_template(
        list(chats), add_generation_prompt=True, return_dict=True, return_tensors="pt", padding=True
    ).to(model.device)
    chosen = {"do_sample": True, "temperature": plan.temperature} if sampled else {"do_sample": False}
    tokens = model.generate(
        **encoded,
        max_new_tokens=plan.max_tokens,
        repetition_penalty=plan.repetition_penalty,
        pad_token_id=tokenizer.pad_token_id,
        **chosen,
    )
    answers = tokenizer.batch_decode(tokens[:, encoded["input_ids"].shape[1] :], skip_special_tokens=True)
    return [answer.strip() for answer in answers]


def _whole_lines(path: Path) -> int:
    """How many chats are there; a last line cut short is removed."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        return 0
    data = path.read_bytes()
    whole = data[: data.rfind(b"\n") + 1]
    if len(whole) < len(data):
        path.write_bytes(whole)
    return whole.count(b"\n")


@reported("stopped; the same command goes on")
def main() -> None:
    """Read the command line and write the chats."""
    parser = argparse.ArgumentParser(
        prog="python -m specdecodes.train.data_gen.answers", description="Let a target answer prompts."
    )
    parser.add_argument("--out", type=Path, required=True, help=".jsonl file of the chats")
    parser.add_argument("--target", default=AnswerPlan.target, help="hub id or folder (default: the demo model)")
    parser.add_argument("--count", type=int, default=AnswerPlan.count, help="chats")
    parser.add_argument("--batch-size", type=int, default=AnswerPlan.batch_size, help="chats answered together")
    parser.add_argument("--max-tokens", type=int, default=AnswerPlan.max_tokens, help="of an answer")
    parser.add_argument("--temperature", type=float, default=AnswerPlan.temperature, help="of the half that is sampled")
    parser.add_argument("--repetition-penalty", type=float, default=AnswerPlan.repetition_penalty)
    parser.add_argument("--seed", type=int, default=AnswerPlan.seed, help="of prompts and dice")
    write_answers(AnswerPlan(**vars(parser.parse_args())))


if __name__ == "__main__":
    main()
