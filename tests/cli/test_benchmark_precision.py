"""`run-benchmark-precision` on a tiny model: one table in three forms, and nothing is measured twice."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from specdecodes.cli import main, run_grid_search
from tests.commands import exit_code, write_questions

COMMON = "--eager --max-length 96 --max-tokens 6 --device-memory 2GiB --set warmup=0 --set method=share_sd --tokens 30"


def test_one_table_of_all_precisions(
    tiny_checkpoint: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(run_grid_search, "measure_apart", run_grid_search.measure_here)
    data = write_questions(tmp_path / "data", (" ".join(f"w{3 + 7 * i % 90}" for i in range(12)),))
    words = [*COMMON.split(), "--data-dir", str(data), "--out-dir", str(tmp_path / "out")]
    words = ["run-benchmark-precision", "--model", str(tiny_checkpoint("llama")), *words]

    def outcome(*more: str) -> tuple[int, str, str]:
        code, captured = exit_code(main, [*words, *more]), capsys.readouterr()
        return code, captured.out, captured.err

    code, out, _ = outcome("--schemes", "int8:g32,hqq2:g32")
    assert code == 0 and "hqq2:g32" in out and "same token" in out
    rows = json.loads((tmp_path / "out" / "precision.json").read_text())["rows"]
    assert [row["scheme"] for row in rows] == ["none", "int8:g32", "hqq2:g32"]
    assert all(row["tokens_per_second"] > 0 and row["nbytes"] > 0 and row["perplexity"] > 1 for row in rows)
    assert rows[0]["kl"] == 0 < rows[1]["kl"] < rows[2]["kl"] and rows[1]["tau"] > 0 and rows[1]["draft_step_s"] > 0
    assert "| hqq2:g32 | 3.00 |" in (tmp_path / "out" / "precision.md").read_text()
    code, again, told = outcome("--schemes", "int8:g32,hqq2:g32")
    assert code == 0 and again == out and "loading" not in told, "nothing is left to do"
    code, _, told = outcome("--schemes", "hqq5")
    assert code == 2 and "did you mean 'hqq8'" in told
