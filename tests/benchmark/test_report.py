"""The table that ends a benchmark, and the description of where it ran."""

from __future__ import annotations

import io

from rich.console import Console

from specdecodes.benchmark import environment
from specdecodes.benchmark.report import progress_line, rows, summary_table
from specdecodes.benchmark.runner import run
from specdecodes.benchmark.samples import Benchmark, Sample

ONE = Benchmark("tiny", "made by the test", (Sample("1", "math", ("q",)),))


def test_the_table_shows_what_the_summary_holds(fake, pipeline, tmp_path):
    summary = run(fake(), ONE, pipeline, tmp_path)
    shown = Console(file=io.StringIO(), width=120)
    shown.print(summary_table(summary))
    text = shown.file.getvalue()
    assert "vanilla on fake" in text
    figures = {name: value for name, value, _ in rows(summary)}
    assert figures["tokens/s"] == "2.00"
    assert figures["tau"] == "2.00"
    assert all(value in text for value in figures.values())


def test_a_run_that_only_failed_has_a_table_too(fake, pipeline, tmp_path):
    summary = run(fake(fails="q"), ONE, pipeline, tmp_path)
    assert rows(summary) == [("samples", "0", "1 failed")]


def test_the_environment_names_machine_code_and_packages():
    described = environment.describe()
    assert described["cores"] >= 1
    assert described["ram_bytes"] > 2**28
    assert described["packages"]["torch"]
    assert described["cpu"]


def test_peak_memory_is_that_of_this_process():
    assert 2**24 < environment.peak_device_bytes() < environment.describe()["ram_bytes"] * 4


def test_the_progress_line_is_for_terminals_only():
    terminal, file = Console(file=io.StringIO(), force_terminal=True, width=80), Console(file=io.StringIO())
    for console in (terminal, file):
        with progress_line(console) as show:
            show("turn 1: 20 tokens")
            console.print("a line to keep")
    assert "turn 1: 20 tokens" in terminal.file.getvalue()
    assert file.file.getvalue() == "a line to keep\n"
