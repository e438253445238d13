"""Result folders as run-benchmark leaves them, of a plain and a drafting method whose figures are known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from specdecodes.benchmark.questions.samples import Benchmark, Sample
from specdecodes.benchmark.runner import run

QUESTIONS = Benchmark("tiny", "made by the test", tuple(Sample(str(n), "math", (f"q{n}",)) for n in range(4)))
OTHERS = replace(QUESTIONS, name="other")


@pytest.fixture
def folder(fake: Callable, pipeline, tmp_path: Path) -> Callable[..., Path]:
    """`folder(method, *benchmarks)`: an --out-dir, made by the real runner."""

    def make(method: str = "vanilla", *benchmarks: Benchmark, name: str = "", model: str = "fake", **options) -> Path:
        out = tmp_path / (name or method)
        changed = replace(pipeline, method=method, target=replace(pipeline.target, model=model))
        for benchmark in benchmarks or (QUESTIONS,):
            run(fake(method=method, **options), benchmark, changed, out, command=f"ask {method}", notify=lambda _: None)
        return out

    return make
