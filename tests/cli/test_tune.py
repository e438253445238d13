"""`run-tune` on a tiny model: probes, predictions beside measurements, and a pipeline that can be run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from specdecodes.cli import main
from specdecodes.pipelines import load
from tests.commands import exit_code

COMMON = "--eager --max-length 96 --device-memory 2GiB --set draft.quant=hqq4:g32 --set tree.depth=3 --set tree.nodes=8"


def tune(model: Path, *words: str) -> int:
    return exit_code(main, ["run-tune", "--model", str(model), *words, *COMMON.split()])


def test_the_fastest_is_written_as_a_pipeline(
    tiny_checkpoint: Callable[..., Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
):
    out, model = tmp_path / "tuned.py", tiny_checkpoint("llama", "bf16")
    options = [
        "--methods",
        "vanilla,subspec_sd,classic_sd",
        "--widths",
        "2",
        "--prompts",
        "1",
        "--tokens",
        "12",
        "--check",
        "0",
    ]
    receipt = tmp_path / "receipt.json"
    assert tune(model, "--out", str(out), "--receipt", str(receipt), *options) == 0
    assert {one["method"] for one in json.loads(receipt.read_text())["candidates"]} == {"vanilla", "subspec_sd"}
    shown, told = capsys.readouterr()
    assert "(fastest)" in shown.replace("\n", "") or "fastest" in shown
    assert "classic_sd is left out" in told and "--draft-model" in told
    chosen = load(str(out))
    assert chosen.method in ("vanilla", "subspec_sd") and chosen.target.model == str(model)
    assert tune(model, "--out", str(tmp_path / "tuned.txt")) == 2
    assert "--out NAME.py" in capsys.readouterr().err
