"""The one table of figures, and the description of where they were measured."""

from __future__ import annotations

import io
from dataclasses import replace

from rich.console import Console

from specdecodes.benchmark import environment
from specdecodes.benchmark.questions.samples import Benchmark, Sample, Score
from specdecodes.benchmark.results.table import category_table, figures_table, peak_row, rows
from specdecodes.benchmark.runner import run
from specdecodes.stats import LevelWork, summarize

ONE = Benchmark("tiny", "made by the test", (Sample("1", "math", ("q",)),))
TASKS = Benchmark(
    "tasks",
    "made by the test",
    tuple(Sample(str(n), "math" if n % 2 else "qa", (f"q{n}",)) for n in range(4)),
    score=lambda sample, text: Score(sample.id == "1", text, "1"),
    tasks=("qa", "math"),
)


def shown(table):
    screen = Console(file=io.StringIO(), width=160)
    screen.print(table)
    return screen.file.getvalue()


def test_the_table_shows_what_the_summary_holds(fake, pipeline, tmp_path):
    summary = run(fake(), ONE, pipeline, tmp_path)
    text = shown(figures_table(summary, "a title"))
    figures = {name: value for name, value, _ in rows(summary)}
    assert figures["tokens/s"] == "2.00"
    assert figures["tau"] == "2.00"
    assert all(value in text for value in ("a title", *figures.values()))


def test_answers_alone_have_the_same_rows_without_samples(answered, fake, pipeline, tmp_path):
    alone = rows(summarize([answered()]) | {"peak_device_bytes": 2**20})
    benchmark = rows(run(fake(), ONE, pipeline, tmp_path))
    assert [row[0] for row in benchmark] == ["samples", *(row[0] for row in alone)]


def test_acceptance_is_shown_level_by_level_where_there_is_a_middle_model(answered):
    generation = answered(tokens=7)  # two rounds that accept 2 of 4
    rounds = tuple(replace(r, middles=(LevelWork(2, 9, 3, 5),)) for r in generation.rounds)
    shown_rows = {}
    for one in (generation, replace(generation, rounds=rounds)):
        found = rows(summarize([one]) | {"peak_device_bytes": 1})
        shown_rows[one is generation] = {name: row for name, *row in found if name.startswith("accepted by")}
    assert shown_rows[True] == {}
    assert shown_rows[False] == {
        "accepted by the target": ["2.00", "of 4.00 tokens offered, 3.00 tokens a round, 2 rounds"],
        "accepted by the middle": ["1.50", "of 4.50 tokens offered, 2.50 tokens a round, 4 rounds"],
    }


def test_a_run_that_only_failed_has_a_table_too(fake, pipeline, tmp_path):
    summary = run(fake(fails="q"), ONE, pipeline, tmp_path)
    assert rows(summary) == [("samples", "0", "1 failed")]


def test_tasks_are_shown_one_by_one_with_their_scores(fake, pipeline, tmp_path):
    summary = run(fake(), TASKS, pipeline, tmp_path, score=True)
    text = shown(category_table(summary))
    assert "50.0%" in text and "0.0%" in text and "qa" in text
    assert dict((name, value) for name, value, _ in rows(summary))["score"] == "25.0%"
    unscored = run(fake(), replace(TASKS, name="plain"), pipeline, tmp_path)
    assert "score" not in shown(category_table(unscored))
    assert category_table(run(fake(), ONE, pipeline, tmp_path)) is None


def test_peak_memory_is_named_for_what_it_counts():
    assert peak_row(2**30, "cuda:0")[0] == "peak GPU memory"
    assert "Python and torch included" in peak_row(2**30, "cpu")[2]


def test_the_environment_names_machine_code_and_packages():
    described = environment.describe()
    assert described["cores"] >= 1
    assert described["ram_bytes"] > 2**28
    assert described["packages"]["torch"]
    assert described["cpu"] in described["machine"]


def test_peak_memory_is_that_of_this_process():
    assert 2**24 < environment.peak_device_bytes() < environment.describe()["ram_bytes"] * 4


def test_the_table_says_when_drafting_paused(fake, pipeline, tmp_path):
    summary = run(fake(), ONE, pipeline, tmp_path) | {"rounds": 9, "plain_rounds": 4, "draft_levels": 20}
    assert ("drafting paused", "4 rounds", "of 9: plain decoding was faster") in rows(summary)
    assert not any(name == "drafting paused" for name, *_ in rows(summary | {"plain_rounds": 9, "draft_levels": 0}))
