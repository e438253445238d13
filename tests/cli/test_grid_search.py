"""`run-grid-search` on a tiny model: points in folders of their own, a table, a page, and on where it was stopped."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import pytest

from specdecodes.cli import main, run_grid_search
from tests.commands import exit_code, write_questions

COMMON = "--eager --max-length 96 --max-tokens 6 --device-memory 2GiB --set warmup=0 --set draft.quant=hqq4:g32"


@pytest.fixture
def model(tiny_checkpoint: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    # A process a point costs seconds here, and what it keeps apart matters to large models only.
    monkeypatch.setattr(run_grid_search, "measure_apart", run_grid_search.measure_here)
    write_questions(tmp_path / "data", ("w3",))
    return tiny_checkpoint("llama", "bf16")


def swept(model: Path, folder: Path, *grid: str) -> int:
    options = ["--data-dir", str(folder / "data"), "--out-dir", str(folder / "grid"), "--model", str(model)]
    words = [word for axis in grid for word in ((axis,) if axis.startswith("--") else ("--grid", axis))]
    return exit_code(main, ["run-grid-search", *words, *options, *COMMON.split()])


def test_a_sweep_measures_every_point_once(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert swept(model, tmp_path, "tree.depth=2,3") == 0
    with (tmp_path / "grid" / "grid.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["tree.depth"] for row in rows] == ["2", "3"]
    assert all(float(row["tokens_per_second"]) > 0 and row["new_tokens"] == "6" for row in rows)
    page = (tmp_path / "grid" / "report.html").read_text(encoding="utf-8")
    assert "2 of 2 points measured" in page and "Fastest with tree.depth" in page
    capsys.readouterr()
    assert swept(model, tmp_path, "tree.depth=2,3") == 0
    assert "loading" not in capsys.readouterr().err, "nothing is left to ask, so no model is loaded"
    assert swept(model, tmp_path, "tree.depth=2", "--restart") == 0
    assert "loading" in capsys.readouterr().err


def test_a_point_that_does_not_fit_is_a_row(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert swept(model, tmp_path, "memory.device=4KiB,2GiB") == 1
    captured = capsys.readouterr()
    assert "failed" in captured.out and "Give at least --device-memory" in captured.err


def test_a_misspelt_axis_is_one_line(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert swept(model, tmp_path, "tree.dept=2,3") == 2
    assert "did you mean 'tree.depth'" in capsys.readouterr().err
