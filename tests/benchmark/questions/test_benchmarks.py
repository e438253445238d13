"""What each benchmark asks; every real file, where the shared data is, is read to its end."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import pytest

from specdecodes.benchmark import questions
from specdecodes.benchmark.questions import (
    aime,
    alpaca,
    cnn_dm,
    gpqa,
    gsm8k,
    human_eval,
    livecodebench,
    math_500,
    spec_bench,
)
from specdecodes.benchmark.questions.sources import question, read_rows, read_samples
from specdecodes.errors import ConfigError

SHARED = Path(__file__).resolve().parents[4] / "shared" / "data"
FILES = {
    "human-eval": human_eval.FILES,
    "gsm8k": gsm8k.FILES,
    "alpaca": alpaca.FILES,
    "cnn-dm": cnn_dm.FILES,
    "aime": aime.FILES_24 + aime.FILES_25,
    "math-500": math_500.FILES,
    "livecodebench": livecodebench.FILES,
    "spec-bench": spec_bench.FILES,
}
READERS = {f"{name}/{file.name}": file.to_sample for name, files in FILES.items() for file in files}
needs_data = pytest.mark.skipif(not (SHARED / "benchmarks").is_dir(), reason="shared/data/benchmarks is not here")


def stated() -> dict[str, int]:
    """The rows of every file, as the README beside the data states them."""
    if not (SHARED / "README.md").is_file():
        return {}
    table = (SHARED / "README.md").read_text(encoding="utf-8").partition("## benchmarks/")[2].partition("\n## ")[0]
    return {name: int(rows) for name, rows in re.findall(r"^\| (\S+/\S+) \| [\d,]+ \| (\d+) \|", table, re.MULTILINE)}


@needs_data
def test_the_readme_states_every_file():
    found = {str(path.relative_to(SHARED / "benchmarks")) for path in (SHARED / "benchmarks").glob("*/*.json*")}
    assert set(stated()) == found


@needs_data
@pytest.mark.parametrize(("name", "rows"), stated().items())
def test_every_real_file_is_read_completely(name, rows):
    path = SHARED / "benchmarks" / name
    if name == "mt-bench/reference_answer_gpt-4.jsonl":  # answers, not questions
        assert sum(1 for row in read_rows(path)) == rows
        return
    samples = read_samples(path, READERS.get(name, question))
    assert len(samples) == rows
    assert all(turn.strip() for sample in samples for turn in sample.turns)


@needs_data
@pytest.mark.parametrize("name", sorted(questions.BENCHMARKS.keys() - {"gpqa"}))
def test_each_benchmark_loads_from_the_shared_folder(name):
    loaded = questions.load(name, SHARED / "benchmarks")
    assert loaded.name == name
    assert str(SHARED) in loaded.source
    assert {sample.category for sample in loaded.samples} <= set(loaded.tasks) or not loaded.tasks
    first = loaded.select(0, 4)
    assert first == loaded.select(0)[:4]
    assert first != loaded.select(1, 4)


@needs_data
def test_a_few_samples_of_spec_bench_cover_its_six_tasks():
    loaded = questions.load("spec-bench", SHARED / "benchmarks")
    assert [sample.category for sample in loaded.select(5, 6)] == list(spec_bench.TASKS)
    assert [sample.category for sample in loaded.samples].count("multi-turn") == 80
    assert sum(len(sample.turns) == 2 for sample in loaded.samples) == 80
    scored = [sample for sample in loaded.samples if loaded.score(sample, "\\boxed{0}") is not None]
    assert {sample.category for sample in scored} == {"math_reasoning"}
    assert len(scored) == 80


def write(folder: Path, name: str, *rows: dict) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder.parent


def test_mathematics_is_asked_to_be_boxed(tmp_path):
    data = write(tmp_path / "gsm8k", "test.jsonl", {"question": "2 + 3?", "answer": "2+3=5\n#### 5"})
    write(tmp_path / "aime", "aime24.jsonl", {"problem": "Find $n$.", "answer": "025"})
    write(tmp_path / "aime", "aime25.jsonl", {"problem": "Find $m$.", "answer": "70"})
    row = {"problem": "Solve.", "answer": "\\frac{1}{2}", "subject": "Algebra", "unique_id": "test/1"}
    write(tmp_path / "math-500", "test.jsonl", row)
    for name in ("gsm8k", "aime", "math-500"):
        for sample in questions.load(name, data).samples:
            assert sample.turns[0].endswith("put your final answer within \\boxed{}.")
    assert [sample.id for sample in questions.load("aime", data).samples] == ["aime24-1", "aime25-1"]


def test_a_problem_without_its_answer_is_refused(tmp_path):
    data = write(tmp_path / "gsm8k", "test.jsonl", {"question": "2 + 3?", "answer": "5"})
    with pytest.raises(ConfigError, match="row 1: no '#### NUMBER'"):
        questions.load("gsm8k", data)
    write(tmp_path / "aime", "aime24.jsonl", {"problem": "Find $n$."})
    with pytest.raises(ConfigError, match="row 1: no 'answer'"):
        questions.load("aime", data)


def test_livecodebench_asks_for_a_stub_or_for_standard_input(tmp_path):
    row = {"question_id": "1", "question_content": "Add.", "platform": "atcoder", "starter_code": ""}
    stub = row | {"question_id": "2", "starter_code": "class Solution:\n    def add(self):\n        "}
    data = write(tmp_path / "livecodebench", "questions.jsonl", row, stub)
    plain, stubbed = (sample.turns[0] for sample in questions.load("livecodebench", data).samples)
    assert "from stdin" in plain and "# YOUR CODE HERE" in plain
    assert "starter code" in stubbed and "class Solution" in stubbed and "stdin" not in stubbed


def test_an_instruction_carries_its_input(tmp_path):
    row = {"id": "seed_1", "name": "n", "instruction": "Sort.", "instances": [{"input": "3 1 2", "output": "1 2 3"}]}
    data = write(tmp_path / "alpaca", "stanford_alpaca_seed_tasks.jsonl", row)
    assert questions.load("alpaca", data).samples[0].turns == ("Sort.\n\n3 1 2",)


@pytest.fixture
def gpqa_folder(tmp_path) -> Path:
    """Made-up questions in GPQA's own columns."""
    folder = tmp_path / "gpqa"
    folder.mkdir()
    names = ("Record ID", "High-level domain", "Question", *gpqa.OPTIONS)
    with (folder / "gpqa_diamond.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(names)
        for n in range(40):
            rows.writerow((f"rec{n}", "Physics", f"Which number is {n},\nexactly?", f"{n}\n", n + 1, n + 2, n + 3))
    return tmp_path


def test_gpqa_shuffles_the_options_of_each_question_once_and_for_all(gpqa_folder):
    loaded = questions.load("gpqa", gpqa_folder)
    assert loaded.samples == questions.load("gpqa", gpqa_folder).samples
    letters = [sample.reference["letter"] for sample in loaded.samples]
    assert set(letters) == set("ABCD")
    for n, (sample, letter) in enumerate(zip(loaded.samples, letters, strict=True)):
        assert f"\n{letter}) {n}\n" in sample.turns[0] + "\n"
        assert sorted(re.findall(r"^([ABCD])\) ", sample.turns[0], re.MULTILINE)) == list("ABCD")
        assert loaded.score(sample, f"Answer: {letter}").correct
