"""AIME: the 30 problems each of 2024 and 2025, reported by year, scored by the integer at the end."""

from __future__ import annotations

from pathlib import Path

from specdecodes.benchmark.questions.math_answer import ask, score
from specdecodes.benchmark.questions.samples import Benchmark, Sample
from specdecodes.benchmark.questions.sources import File, Hub, Row, ToSample, read, text

NAME = "aime"


def load(data_dir: Path | None = None) -> Benchmark:
    """Both years; a data folder holds aime24.jsonl and aime25.jsonl."""
    first, problems_24 = read(NAME, data_dir, FILES_24, HUB_24)
    second, problems_25 = read(NAME, data_dir, FILES_25, HUB_25)
    samples = problems_24 + problems_25
    source = f"AIME 2024 and 2025, {len(samples)} problems from {first} and {second}"
    return Benchmark(NAME, source, samples, score, tasks=("aime24", "aime25"))


def _of(year: str) -> ToSample:
    def problem(row: Row, number: int) -> Sample:
        answer = str(row.get("answer") or "").strip()
        if not answer:
            raise ValueError("no 'answer'")
        return Sample(f"{year}-{number}", year, (ask(text(row, "problem")),), {"answer": answer})

    return problem


FILES_24 = (
    File(
        "aime24.jsonl",
        "https://raw.githubusercontent.com/hkust-nlp/simpleRL-reason/cf1c7858bfc145a27aa733e75d930d34f0d318a6/"
        "examples/simplelr_math_eval/data/aime24/test.jsonl",
        _of("aime24"),
    ),
)
FILES_25 = (
    File(
        "aime25.jsonl",
        "https://raw.githubusercontent.com/Zhuofeng-Li/math-evaluation-harness/"
        "a0448031ca940fa85ebc55a461a047874ea5ac5f/data/aime25/test.jsonl",
        _of("aime25"),
    ),
)
HUB_24 = Hub("HuggingFaceH4/aime_2024", "default", "train", _of("aime24"), ("problem", "answer"))
HUB_25 = Hub("yentinglin/aime_2025", "default", "train", _of("aime25"), ("problem", "answer"))
