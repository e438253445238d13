"""MATH-500: 500 competition problems, scored by the boxed expression."""

from __future__ import annotations

from pathlib import Path

from specdecodes.benchmark.questions.math_answer import ask, score
from specdecodes.benchmark.questions.samples import Benchmark, Sample
from specdecodes.benchmark.questions.sources import File, Hub, Row, read, text

NAME = "math-500"


def load(data_dir: Path | None = None) -> Benchmark:
    """The 500 problems that PRM800K held out of MATH."""
    source, samples = read(NAME, data_dir, FILES, HUB)
    return Benchmark(NAME, f"MATH-500, {len(samples)} problems from {source}", samples, score)


def _problem(row: Row, number: int) -> Sample:
    reference = {"answer": text(row, "answer")}
    return Sample(text(row, "unique_id"), text(row, "subject"), (ask(text(row, "problem")),), reference)


FILES = (
    File(
        "test.jsonl",
        "https://raw.githubusercontent.com/hkust-nlp/simpleRL-reason/cf1c7858bfc145a27aa733e75d930d34f0d318a6/"
        "examples/simplelr_math_eval/data/math500/test.jsonl",
        _problem,
    ),
)
HUB = Hub("HuggingFaceH4/MATH-500", "default", "test", _problem, ("problem", "answer", "subject", "unique_id"))
