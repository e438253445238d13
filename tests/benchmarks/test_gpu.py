"""The GPU benchmark's arithmetic, and one of its arms on the CPU; `bash benchmarks/gpu.sh --dry-run` runs them all."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from benchmarks import gpu, gpu_arm
from benchmarks.alternating import link_used
from specdecodes.config import Pipeline, Tree
from specdecodes.offload.planning.candidates import DRAFT
from specdecodes.offload.planning.plan import Placement


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


def test_the_published_settings() -> None:
    arm = gpu.ARMS[gpu.PUBLISHED]
    assert (arm.tree.width, arm.tree.depth, arm.tree.adaptive) == (6, 48, False)
    assert arm.tree.nodes == 6 * 48 + 1 and arm.published
    plain = gpu.ARMS["plain"]
    assert plain.tree == Tree(nodes=2) and not plain.exact and not plain.published


def test_each_part_of_ours_has_an_arm_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """And nothing else about that arm differs from ours; a kernel that is not installed has none."""
    ours = gpu.ARMS["subspec"]
    apart = {
        name: {key for key, value in asdict(arm).items() if value != asdict(ours)[key]}
        for name, arm in gpu.ARMS.items()
        if arm.method == ours.method and not arm.published and arm is not ours
    }
    assert apart == {
        "subspec, gemlite": {"kernel"},
        "subspec, reading ahead": {"ring", "compress"},
        "subspec, compressed alone": {"compress"},
        "subspec, not compressed": {"compress"},
        "subspec, always 24 levels": {"tree"},
        "subspec, exact": {"exact"},
        "subspec, waiting while drafting": {"ahead"},
        "subspec, no graphs": {"graphs"},
    }
    monkeypatch.setattr(gpu, "find_spec", lambda name: None)
    installed = gpu.arms(argparse.Namespace(arms=None, gguf=None, dry_run=False))
    assert "subspec, no graphs" in installed and "subspec, gemlite" not in installed


def test_an_arm_runs_what_it_says() -> None:
    def given(arm: str) -> Pipeline:
        asked = {"cap": "8GiB", "reserve": "1GiB", "host_memory": None, "model": "m", "draft_model": "d"}
        return gpu_arm.pipeline_of(argparse.Namespace(arm=arm, dry_run=False, **asked))

    assert given("subspec, gemlite").draft.quant == "hqq4@gemlite" and given("subspec").draft.quant == "hqq4"
    assert not given("subspec, no graphs").graphs and not given("subspec, waiting while drafting").memory.ahead
    ways = {"subspec": "auto", "subspec, compressed alone": "alone", "subspec, not compressed": "off"}
    assert {arm: given(arm).memory.compress for arm in ways} == ways


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
    assert row["bytes_streamed"] > 0 and row["expected_tokens_per_second"] > 0
    parts = [part for part, *_ in row["plan"]]
    assert ("resident" in " ".join(parts)) == (arm != gpu.PUBLISHED)


def test_speeds_are_compared_with_the_published_settings_of_the_same_round() -> None:
    speeds = {"subspec": (6.0, 9.0), gpu.PUBLISHED: (2.0, 3.0)}
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
    assert link_used(row, 20.0) == pytest.approx(0.8)
    assert link_used(row, 0.0) == 0.0


def test_what_a_draft_level_reads() -> None:
    """Two resident layers of three, one with a substitute, the head; or a model of its own."""
    sizes = {"embedding and head": 7, "2 resident layers": 2000, "2 substitutes": 500, DRAFT: 0}
    placement = SimpleNamespace(
        device_bytes=sizes,
        resident=(0, 2),
        substituted=(1, 2),
        predicted=SimpleNamespace(draft_step_s=0.01),
        rows_from_host=False,
    )
    assert gpu_arm.draft_bytes(cast(Placement, placement)) == 7 + 1000 + 500
    sizes[DRAFT] = 90
    assert gpu_arm.draft_bytes(cast(Placement, placement)) == 90
    sizes[DRAFT], placement.predicted = 0, SimpleNamespace(draft_step_s=0.0)
    assert gpu_arm.draft_bytes(cast(Placement, placement)) == 0


def test_steps_that_ran_otherwise_than_asked_are_told_below_the_table() -> None:
    said = "loading 3 of 6 layers\nsteps could not be recorded as CUDA graphs (out of memory); they are launched"
    assert gpu.fallbacks([{"said": said}, {"said": said}, {"error": "no memory"}]) == [said.splitlines()[1]]


@pytest.mark.parametrize(("grows", "taken"), [(True, 4), (False, 2)])
def test_host_memory_is_waited_for_where_it_grows_with_its_use(
    grows: bool, taken: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """4 pieces are free of the 12 wanted. Where memory grows, two more come for each that is taken."""
    free, clock, pieces = [4], [0.0], []

    def take(*_: object, **__: object) -> object:
        free[0] += (2 if grows else 0) - 1
        pieces.append(object())
        return pieces[-1]

    def sleep(seconds: float) -> None:
        clock[0] += seconds

    memory = SimpleNamespace(virtual_memory=lambda: SimpleNamespace(available=free[0] * gpu_arm.PIECE))
    monkeypatch.setattr(gpu_arm, "psutil", memory)
    monkeypatch.setattr(gpu_arm, "time", SimpleNamespace(monotonic=lambda: clock[0], sleep=sleep))
    monkeypatch.setattr(gpu_arm.torch, "ones", take)
    gpu_arm.await_memory(12 * gpu_arm.PIECE)
    assert len(pieces) == taken and clock[0] < 11.0
