"""GSM8K: 1319 grade-school word problems, scored by the number at the end."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from specdecodes.benchmark.questions.eagle import eagle
from specdecodes.benchmark.questions.math_answer import ask, score
from specdecodes.benchmark.questions.samples import Benchmark, Sample
from specdecodes.benchmark.questions.sources import File, Hub, Row, question, read, text

NAME = "gsm8k"


def load(data_dir: Path | None = None) -> Benchmark:
    """The test split, asked to reason and to box the answer; EAGLE's 80 of it where only those are there."""
    source, samples = read(NAME, data_dir, FILES, HUB)
    return Benchmark(NAME, f"GSM8K test, {len(samples)} problems from {source}", samples, score)


def solved(solution: str) -> dict[str, str]:
    """The number behind the #### that ends every worked solution. Raises ValueError where there is none."""
    _, marker, answer = solution.rpartition("####")
    if not marker or not answer.strip():
        raise ValueError("no '#### NUMBER' at the end of the solution")
    return {"answer": answer.strip().replace(",", "")}


def _problem(row: Row, number: int) -> Sample:
    return Sample(str(number), "math", (ask(text(row, "question")),), solved(text(row, "answer")))


def with_solution(row: Row, number: int) -> Sample:
    """A question as it is; `reference` holds the worked solution."""
    solutions = row.get("reference")
    if not isinstance(solutions, list) or not solutions:
        raise ValueError("no worked solution in 'reference'")
    return replace(question(row, number), reference=solved(str(solutions[0])))


FILES = (
    File(
        "test.jsonl",
        "https://raw.githubusercontent.com/openai/grade-school-math/3101c7d5072418e28b9008a6636bde82a006892c/"
        "grade_school_math/data/test.jsonl",
        _problem,
    ),
    eagle("gsm8k", with_solution),
)
HUB = Hub("openai/gsm8k", "main", "test", _problem, ("question", "answer"))
