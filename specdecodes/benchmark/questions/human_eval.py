"""HumanEval: 164 Python functions to complete, scored by running their tests."""

from __future__ import annotations

import re
from pathlib import Path

from specdecodes.benchmark.questions.eagle import eagle
from specdecodes.benchmark.questions.execution import run_program
from specdecodes.benchmark.questions.samples import Benchmark, Sample, Score
from specdecodes.benchmark.questions.sources import File, Hub, Row, read, text

NAME = "human-eval"
ASK = (
    "Read the following function signature and docstring, and fully implement the function described. Your response "
    "should only contain the code for this function."
)
BLOCK = re.compile(r"```(?:[Pp]ython3?|py)?[^\S\n]*\n(.*?)(?:```|\Z)", re.DOTALL)  # a last block may be cut short


def load(data_dir: Path | None = None) -> Benchmark:
    """The 164 problems; EAGLE's 80 of them, which come without tests and so without a score, where only those are
    there."""
    source, samples = read(NAME, data_dir, FILES, HUB)
    described = f"HumanEval, {len(samples)} problems from {source}"
    if not all(sample.reference for sample in samples):
        return Benchmark(NAME, described, samples)
    return Benchmark(NAME, described, samples, score, runs_code=True)


def score(sample: Sample, answer: str) -> Score:
    """Right when the tests pass on the function in `answer`. Runs what the model wrote: see `execution.run_program`."""
    name = sample.reference["entry_point"]
    code = extract(answer, name)
    if not code.strip():
        return Score(False, "", name, "no code was found")
    program = "\n".join(
        (_completed(sample.reference["prompt"], code, name), sample.reference["test"], f"check({name})")
    )
    failure = run_program(program)
    return Score(not failure, code, name, failure)


def extract(answer: str, name: str) -> str:
    """The code in `answer`: the first fenced block that defines `name`, else the first block, else the whole text."""
    blocks = BLOCK.findall(answer)
    defining = [block for block in blocks if _defines(block, name)]
    return (defining or blocks or [answer])[0]


def _completed(prompt: str, code: str, name: str) -> str:
    """The problem's imports and helpers, then the function: `code` defines it anew or goes on from its docstring."""
    if _defines(code, name):
        return f"{prompt}\n{code}"
    first = next(line for line in code.split("\n") if line.strip())
    indented = code if first[:1].isspace() else "\n".join(f"    {line}" for line in code.split("\n"))
    return f"{prompt.rstrip()}\n{indented}"


def _defines(code: str, name: str) -> bool:
    return re.search(rf"^(?:async )?def {re.escape(name)}\b", code, re.MULTILINE) is not None


def _problem(row: Row, number: int) -> Sample:
    prompt = text(row, "prompt")
    reference = {"prompt": prompt, "test": text(row, "test"), "entry_point": text(row, "entry_point")}
    return Sample(text(row, "task_id"), "code", (f"{ASK}\n\n```python\n{prompt.strip()}\n```",), reference)


FILES = (
    File(
        "HumanEval.jsonl.gz",
        "https://github.com/openai/human-eval/raw/6d43fb980f9fee3c892a914eda09951f772ad10d/data/HumanEval.jsonl.gz",
        _problem,
    ),
    eagle("humaneval"),
)
HUB = Hub(
    "openai/openai_humaneval",
    "openai_humaneval",
    "test",
    _problem,
    ("task_id", "prompt", "test", "entry_point"),
)
