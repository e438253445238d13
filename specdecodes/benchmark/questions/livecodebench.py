"""LiveCodeBench: contest problems of release 5 (May 2023 to January 2025). Its test cases are not run: no score."""

from __future__ import annotations

from pathlib import Path

from specdecodes.benchmark.questions.samples import Benchmark, Sample
from specdecodes.benchmark.questions.sources import File, Hub, Row, read, text

NAME = "livecodebench"
TASK = (
    "You will be given a question (problem specification) and will generate a correct Python program that matches the "
    "specification and passes all tests."
)
COMPLETE = (
    "You will use the following starter code to write the solution to the problem and enclose your code within "
    "delimiters."
)
READ_STDIN = (
    "Read the inputs from stdin solve the problem and write the answer to stdout (do not directly test on the sample "
    "inputs). Enclose your code within delimiters as follows. Ensure that when the python program runs, it reads the "
    "inputs, runs the algorithm and writes output to STDOUT."
)


def load(data_dir: Path | None = None) -> Benchmark:
    """The 880 problem statements, asked in LiveCodeBench's own words."""
    source, samples = read(NAME, data_dir, FILES, HUB)
    return Benchmark(NAME, f"LiveCodeBench, {len(samples)} problems from {source}", samples)


def _problem(row: Row, number: int) -> Sample:
    starter = row.get("starter_code") or ""
    form = (
        f"{COMPLETE}\n```python\n{starter}\n```"
        if starter.strip()
        else f"{READ_STDIN}\n```python\n# YOUR CODE HERE\n```"
    )
    prompt = (
        f"{TASK}\n\n### Question:\n{text(row, 'question_content')}\n\n### Format: {form}\n\n"
        "### Answer: (use the provided format with backticks)\n"
    )
    return Sample(text(row, "question_id"), text(row, "platform"), (prompt,))


FILES = (
    File(
        "questions.jsonl",
        "https://huggingface.co/datasets/livecodebench/code_generation_lite (its test.jsonl to test5.jsonl, one after "
        "the other)",
        _problem,
    ),
)
HUB = Hub(
    "lighteval/code_generation_lite",  # the authors' own dataset is a script, which `datasets` no longer runs
    "release_v5",
    "test",
    _problem,
    ("question_id", "question_content", "starter_code", "platform"),
)
