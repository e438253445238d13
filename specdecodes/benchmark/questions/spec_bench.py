"""Spec-Bench: six tasks of 80 questions each, reported one by one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from specdecodes.benchmark.questions import math_answer
from specdecodes.benchmark.questions.gsm8k import with_solution
from specdecodes.benchmark.questions.samples import Benchmark, Sample, Score
from specdecodes.benchmark.questions.sources import File, Row, Web, question, read

NAME = "spec-bench"
TASKS = ("multi-turn", "translation", "summarization", "qa", "math_reasoning", "rag")
URL = (
    "https://raw.githubusercontent.com/hemingkx/Spec-Bench/fd2c1cd7d2201ef71db4c5f4e455008f017967bf/"
    "data/spec_bench/question.jsonl"
)
SHA256 = "4b6d33e79484f9841c487ee87d1cf6aa8c6066f61d5d482ff09e5a007fafdf04"


def load(data_dir: Path | None = None) -> Benchmark:
    """The 480 questions, asked as they are; the task of each is its category."""
    source, samples = read(NAME, data_dir, FILES, WEB)
    return Benchmark(NAME, f"Spec-Bench, {len(samples)} questions from {source}", samples, score, tasks=TASKS)


def score(sample: Sample, answer: str) -> Score | None:
    """Mathematical reasoning has one right answer; the other tasks have none that a program can tell."""
    return math_answer.score(sample, answer) if sample.category == "math_reasoning" else None


def _question(row: Row, number: int) -> Sample:
    if row.get("category") == "math_reasoning":
        return with_solution(row, number)
    asked = question(row, number)
    # MT-Bench's own eight categories are together the task of two turns
    return asked if asked.category in TASKS else replace(asked, category="multi-turn")


FILES = (File("question.jsonl", URL, _question),)
WEB = Web(URL, SHA256, _question)
