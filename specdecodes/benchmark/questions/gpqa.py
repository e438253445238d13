"""GPQA diamond: 198 graduate-level questions with four options, scored by the letter."""

from __future__ import annotations

import random
import re
from pathlib import Path

from specdecodes.benchmark.questions.samples import Benchmark, Sample, Score
from specdecodes.benchmark.questions.sources import File, Hub, Row, read, text

NAME = "gpqa"
SHUFFLE_SEED = 0  # of the options; with the question's id it alone decides their order
LETTERS = "ABCD"
OPTIONS = ("Correct Answer", "Incorrect Answer 1", "Incorrect Answer 2", "Incorrect Answer 3")
ASK = (
    "Answer the following multiple choice question. The last line of your response should be of the following format: "
    "'Answer: LETTER' (without quotes) where LETTER is one of ABCD. Think step by step before answering."
)
# A letter behind "answer", or boxed. Bold, parentheses, dollars and \text{} may stand around it.
_WRAP = r"[\s*_$({\[]*(?:\\(?:text|mathrm|mathbf|boxed)\{)?[\s*_$({\[]*"
STATED = re.compile(
    rf"(?:(?i:answer)[\s*_]*(?:(?i:is|would be|should be)\b)?[\s*_]*:?{_WRAP}|\\boxed\{{{_WRAP})"
    r"(?:(?i:option|choice)\s+)?[(*_]*([ABCD])(?![A-Za-z'\u2019])"
)
ALONE = re.compile(r"[\s*_$(\[]*([ABCD])[\s*_$).\]]*")


def load(data_dir: Path | None = None) -> Benchmark:
    """The diamond set, each question with its options in an order of its own."""
    source, samples = read(NAME, data_dir, FILES, HUB)
    return Benchmark(NAME, f"GPQA diamond, {len(samples)} questions from {source}", samples, score)


def score(sample: Sample, answer: str) -> Score:
    """Right when the last letter that `answer` gives as its answer is the right option's."""
    expected = sample.reference["letter"]
    letter = extract(answer)
    return Score(letter == expected, letter, expected, "" if letter else "no letter is given as the answer")


def extract(answer: str) -> str:
    """The letter of the last "Answer: X" or boxed X, or of a text that is nothing else; empty when there is none."""
    stated = STATED.findall(answer)
    if stated:
        return stated[-1]
    alone = ALONE.fullmatch(answer.strip())
    return alone[1] if alone else ""


def _question(row: Row, number: int) -> Sample:
    name = str(row.get("Record ID") or number)
    options = [text(row, option).strip() for option in OPTIONS]
    order = list(range(len(options)))
    random.Random(f"{SHUFFLE_SEED} {name}").shuffle(order)
    listed = "\n".join(f"{letter}) {options[place]}" for letter, place in zip(LETTERS, order, strict=True))
    prompt = f"{ASK}\n\n{text(row, 'Question').strip()}\n\n{listed}"
    return Sample(name, str(row.get("High-level domain") or ""), (prompt,), {"letter": LETTERS[order.index(0)]})


FILES = (File("gpqa_diamond.csv", "https://huggingface.co/datasets/Idavidrein/gpqa (gpqa_diamond.csv)", _question),)
HUB = Hub(
    "Idavidrein/gpqa",
    "gpqa_diamond",
    "train",
    _question,
    ("Record ID", "High-level domain", "Question", *OPTIONS),
    terms="it is gated: accept its terms on https://huggingface.co/datasets/Idavidrein/gpqa, then `hf auth login`",
)
