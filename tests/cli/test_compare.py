"""run-compare on result folders: table, Markdown and CSV, and what is said about equal tokens."""

from __future__ import annotations

import csv
import io
from dataclasses import replace
from pathlib import Path

import pytest

from run.main import run as front
from specdecodes.benchmark.results.journal import open_log, write_json
from specdecodes.benchmark.results.records import SampleRecord
from specdecodes.cli import main
from specdecodes.stats import Generation, Round
from tests.commands import exit_code


def answer(tokens: int, seconds: float) -> Generation:
    round_ = Round(tuple(range(1, tokens)), 4, tokens - 2, (2, 2), 2, {"draft": 0.1, "target": 0.2}, 1000, 0.25)
    text = " ".join(map(str, range(tokens)))
    return Generation(text, tuple(range(tokens)), 7, 0, (round_,), {"target": 0.1}, seconds, 0.1, 500, "stop", 0.25)


def write(
    folder: Path, method: str, seconds: float, *, benchmark: str = "gsm8k", parts: bool = False, exact: bool = True
) -> Path:
    settings = {
        "pipeline": {"method": method, "memory": {"device": "1GiB"}},
        "benchmark": {"name": benchmark, "sha256": "a"},
    }
    with open_log(folder / benchmark, settings, print) as log:
        for number in range(8):
            said = answer(6 + number, seconds)
            if parts and number == 3:
                said = replace(said, tokens=(*said.tokens[:4], 99), text="0 1 2 3 other")
            log.append(SampleRecord(str(number), "c", ("q",), "done", (said,), score=1.0, machine="m", revision="r"))
    facts = {"benchmark": benchmark, "method": method, "model": "m", "exact": exact}
    write_json(folder / benchmark / "run.json", facts)
    return folder


def outcome(arguments: list[str], capsys: pytest.CaptureFixture[str], call=main) -> tuple[int, str, str]:
    code, captured = exit_code(call, ["run-compare", *arguments]), capsys.readouterr()
    return code, captured.out, captured.err


@pytest.fixture
def folders(tmp_path: Path) -> list[str]:
    return [str(write(tmp_path / "a", "vanilla", 4.0)), str(write(tmp_path / "b", "subspec_sd", 1.0))]


def test_the_table_says_how_much_faster_and_that_the_tokens_are_equal(
    folders: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("COLUMNS", "160")
    code, out, _ = outcome(folders, capsys)
    assert code == 0
    assert "4.00x" in out and "4.00-4.00" in out and "100.0%" in out
    assert "subspec_sd is token-identical to vanilla: 8 samples, 76 tokens." in out
    assert "WARNING" not in out


def test_the_first_divergence_is_shown(tmp_path: Path, folders: list[str], capsys: pytest.CaptureFixture[str]):
    other = write(tmp_path / "c", "subspec_sd", 2.0, parts=True)
    _, out, _ = outcome([*folders, str(other)], capsys)
    assert f"subspec_sd ({other}) differs from vanilla in 1 of 8 samples" in out
    assert "sample 3, turn 1, new token 4: vanilla token 4 '0 1 2 3 4 5 6 7 8'" in out
    assert "token 99 '0 1 2 3 other'" in out
    assert "--exact" not in out, "exact runs are"


def test_runs_that_are_not_exact_are_told_why_they_part(
    tmp_path: Path, folders: list[str], capsys: pytest.CaptureFixture[str]
):
    equal = write(tmp_path / "c", "subspec_sd", 2.0, exact=False)
    assert "near tie" not in outcome([folders[0], str(equal)], capsys)[1]
    other = write(tmp_path / "d", "subspec_sd", 2.0, parts=True, exact=False)
    _, out, _ = outcome([folders[0], str(other)], capsys)
    assert "differs from vanilla" in out and "near ties may fall the other way" in out and "--exact makes" in out


def test_markdown_is_a_table_and_a_list(folders: list[str], capsys: pytest.CaptureFixture[str]):
    _, out, _ = outcome([*folders, "--format", "markdown"], capsys)
    lines = out.splitlines()
    table = [line for line in lines if line.startswith("|")]
    assert len(table) == 4 and len({line.count("|") for line in table}) == 1
    assert any(line.startswith("- subspec_sd is token-identical") for line in lines)


def test_csv_holds_plain_numbers(folders: list[str], capsys: pytest.CaptureFixture[str]):
    _, out, err = outcome([*folders, "--format", "csv"], capsys)
    plain, fast = csv.DictReader(io.StringIO(out))
    assert float(fast["ratio"]) == pytest.approx(4)
    assert float(fast["tokens_per_second"]) == pytest.approx(76 / 8)
    assert (plain["ratio_low"], plain["identical_samples"], fast["samples"]) == ("", "8", "8")
    assert err == ""


def test_shared_benchmarks_are_also_taken_together(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    folders = []
    for name, method in (("a", "vanilla"), ("b", "classic_sd")):
        for benchmark in ("gsm8k", "alpaca", *(["aime"] if name == "a" else [])):
            write(tmp_path / name, method, 1.0, benchmark=benchmark)
        folders.append(str(tmp_path / name))
    _, out, err = outcome(folders, capsys)
    titles = [line.split(":")[0] for line in out.splitlines() if "samples that all runs answered" in line]
    assert titles == ["alpaca", "gsm8k", "all benchmarks"]
    assert "left out: aime" in err


def test_one_benchmark_s_folder_will_do_and_needs_no_pipeline(folders, capsys: pytest.CaptureFixture[str]):
    code, out, _ = outcome([f"{folder}/gsm8k" for folder in folders], capsys, call=front)
    assert code == 0 and "gsm8k: 8 samples" in out
    assert exit_code(front, ["run.exp_offloading.vanilla_demo", "run-compare", "a", "b"]) == 2
    assert "bash run.sh run-compare a b" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("names", "words"), [(["a"], "two or more"), (["a", "none"], "holds no results"), (["a", "other"], "in common")]
)
def test_what_cannot_be_compared_is_one_line(
    tmp_path: Path, names: list[str], words: str, capsys: pytest.CaptureFixture[str]
):
    write(tmp_path / "a", "vanilla", 1.0)
    write(tmp_path / "other", "vanilla", 1.0, benchmark="aime")
    code, out, err = outcome([str(tmp_path / name) for name in names], capsys)
    assert code == 2 and out == "" and err.startswith("error: ") and words in err and err.count("\n") == 1
