"""The GPU benchmark's arithmetic, and one of its arms on the CPU; `bash benchmarks/gpu.sh --dry-run` runs them all."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import pytest

from benchmarks import gpu
from specdecodes.config import Tree


def test_medians_are_of_the_rounds_and_ratios_within_a_round() -> None:
    runs = [
        {"arm": arm, "round": number, "decode_tokens_per_second": speed, "tau": 2.0}
        for number, speeds in enumerate([(1.0, 3.0), (2.0, 8.0), (4.0, 16.0)])
        for arm, speed in zip(("plain", "subspec"), speeds, strict=True)
    ]
    found = gpu.summary([*runs, {"arm": "classic", "round": 0, "error": "out of memory"}])
    assert found["plain"] == {"decode_tokens_per_second": 2.0, "tau": 2.0, "times_plain": 1.0}
    assert found["subspec"]["decode_tokens_per_second"] == 8.0 and found["subspec"]["times_plain"] == 4.0
    assert found["classic"] == {}
    lines = gpu.table(found).splitlines()
    assert lines[2] == "| plain | 2.00 | 1.00 |  | 2.0 |  |  |  |  |"
    assert lines[4].startswith("| classic | failed |")
    assert len({line.count("|") for line in lines}) == 1


def test_the_published_settings() -> None:
    tree = gpu.ARMS["subspec, published settings"][1]
    assert (tree.width, tree.depth, tree.adaptive) == (6, 48, False)
    assert tree.nodes == 6 * 48 + 1
    assert not gpu.ARMS["plain"][2] and Tree(nodes=2) == gpu.PLAIN


def test_without_a_device_it_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--model", "nowhere"])
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert gpu.main() == 2
    assert "--dry-run" in capsys.readouterr().err


def test_the_receipt_and_the_table_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An arm that fails is in both, and in the exit code."""
    answers = {"plain": {"decode_tokens_per_second": 2.0}, "subspec": {"decode_tokens_per_second": 9.0}}
    monkeypatch.setattr(gpu, "in_process", lambda arm, seconds: answers.get(arm, {"error": "no memory"}))
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--model", "m", "--dry-run", "--rounds", "2", "--out", str(tmp_path)])
    assert gpu.main() == 1
    (receipt,), (text,) = tmp_path.glob("*.json"), tmp_path.glob("*.md")
    kept = json.loads(receipt.read_text())
    assert kept["arms"]["subspec"]["times_plain"] == 4.5 and len(kept["runs"]) == 2 * len(gpu.arms(gpu._arguments()))
    assert "| subspec | 9.00 | 4.50 |" in text.read_text() and "| classic | failed |" in text.read_text()


@pytest.mark.parametrize(("arm", "cap"), [("plain, blocking", "16MiB"), ("subspec, published settings", "18MiB")])
def test_an_arm_on_the_cpu(arm: str, cap: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = Path(__file__).resolve().parents[2] / "assets/demo"
    options = ["--dry-run", "--cap", cap, "--prompts", "1", "--tokens", "6", "--plain-tokens", "3"]
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--model", str(model), "--arm", arm, *options])
    arguments: argparse.Namespace = gpu._arguments()
    row = gpu.run_arm(arguments)
    assert row["decode_tokens_per_second"] > 0
    assert row["bytes_streamed"] > 0


def test_speeds_are_compared_with_the_published_settings_of_the_same_round() -> None:
    speeds = {"subspec": (6.0, 9.0), gpu.PUBLISHED_ARM: (2.0, 3.0)}
    runs = [
        {"arm": arm, "round": number, "decode_tokens_per_second": speed}
        for arm, found in speeds.items()
        for number, speed in enumerate(found)
    ]
    assert gpu.summary(runs)["subspec"]["times_published"] == 3.0
    assert "times_plain" not in gpu.summary(runs)["subspec"]


def test_an_arm_that_would_not_end_in_time_does_not_begin(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two minutes, arms take 50 seconds each."""
    clock, allowed = [0.0], []

    def arm(name: str, seconds: float) -> dict[str, float]:
        allowed.append(seconds)
        clock[0] += 50.0
        return {"decode_tokens_per_second": 1.0}

    monkeypatch.setattr(gpu.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(gpu, "in_process", arm)
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--model", "m", "--dry-run", "--minutes", "2"])
    runs = list(gpu.run_in_turn(gpu._arguments()))
    assert [run["arm"] for run in runs] == list(gpu.ARMS)[:2] and allowed == [120.0, 70.0]


def test_the_share_of_the_link_counts_whole_rounds() -> None:
    row = {"new_tokens": 101, "decode_tokens_per_second": 10.0, "bytes_per_round": 8e9, "rounds": 20}
    assert gpu.link_used(row, 20.0) == pytest.approx(0.8)
    assert gpu.link_used(row, 0.0) == 0.0
