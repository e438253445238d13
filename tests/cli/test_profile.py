"""`run-profile` on a tiny streamed model: the trace opens, and holds the ranges that it is for."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from specdecodes.benchmark.profile import FOLDER, SUMMARY, TRACE, read_timeline
from specdecodes.cli import main
from specdecodes.config import Draft, Memory, Pipeline, Target, Tree
from specdecodes.errors import BudgetError
from specdecodes.methods import plan_for
from tests.commands import exit_code

OPTIONS = (
    "--eager --max-length 128 --max-tokens 40 --rounds 2 --prompt w5 --set draft.quant=hqq4:g32 "
    "--set tree.depth=3 --set tree.adaptive=false"
)


@pytest.fixture
def model(tiny_checkpoint: Callable[..., Path]) -> Path:
    return tiny_checkpoint("llama", "bf16")


def profiled(model: Path, out: Path, options: str) -> int:
    words = ["run-profile", "--model", str(model), "--out-dir", str(out), *OPTIONS.split(), *options.split()]
    return exit_code(main, words)


def tightest(model: Path) -> int:
    """Bytes of the smallest placement, in which layers stream."""
    tree, draft = Tree(depth=3, adaptive=False), Draft(quant="hqq4:g32")
    pipeline = Pipeline("subspec_sd", Target(str(model)), draft, tree, Memory(4096), max_length=128, compile=False)
    with pytest.raises(BudgetError) as refused:
        plan_for(pipeline)
    return 4096 + refused.value.shortfall_bytes


def test_the_trace_holds_levels_layers_reads_verify_and_commit(model: Path, tmp_path: Path, capsys):
    assert profiled(model, tmp_path, f"--device-memory {tightest(model)}") == 0
    with gzip.open(tmp_path / FOLDER / TRACE, "rt", encoding="utf-8") as file:
        events = json.load(file)["traceEvents"]
    names = {event["name"] for event in events if event.get("cat") == "user_annotation"}
    assert {"draft", "target", "verify", "commit", "draft level 1", "draft level 3", "layer 0", "layer 3"} <= names
    assert {"read streamed layer 0", "wait for streamed layer 0"} <= names
    threads = {event["tid"] for event in events if event["name"].startswith(("draft", "read streamed"))}
    assert len(threads) >= 2, "readers are threads of their own"
    round_ = read_timeline(tmp_path)
    assert round_ is not None and [name for name, _, _ in round_.draft] == ["1", "2", "3"]
    assert [name for name, _, _ in round_.target] == ["0", "1", "2", "3"] and round_.link
    page = (tmp_path / FOLDER / SUMMARY).read_text(encoding="utf-8")
    assert page.startswith("# Profile: subspec_sd") and "| draft level |" in page and "aten::" in page


def test_an_answer_without_enough_rounds_is_one_line(model: Path, tmp_path: Path, capsys):
    assert profiled(model, tmp_path, "--device-memory 64MiB --set sampling.max_tokens=3") == 2
    assert "the answer ended before 4 rounds" in capsys.readouterr().err
