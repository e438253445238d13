"""The commands on a tiny random model and the real engine, eager: what a user sees from the first word to the last."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from specdecodes.cli import main, run_verify, session
from tests.commands import exit_code, write_questions

COMMON = (
    "--eager --exact --device-memory 2GiB --max-length 128 --max-tokens 20 "
    "--set draft.quant=hqq4:g32 --set tree.depth=4"
)


@pytest.fixture
def checkpoint(tiny_checkpoint: Callable[..., Path]) -> Path:
    return tiny_checkpoint("llama", "bf16")


def run(arguments: str, model: Path) -> int:
    return exit_code(main, [*arguments.split(), "--model", str(model), *COMMON.split()])


def test_run_test_answers_and_measures(checkpoint: Path, capsys: pytest.CaptureFixture[str]):
    assert run("run-test --prompt w5", checkpoint) == 0
    captured = capsys.readouterr()
    assert "w" in captured.out
    steps = ("plan: subspec_sd", "predicted speed", "loading", "this answer", "new tokens", "plan and measurement")
    places = [captured.err.index(step) for step in steps]
    assert places == sorted(places), "the plan before the loading, what was measured after the answer"


def test_run_plan_loads_nothing(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    bare = tmp_path / "bare"
    shutil.copytree(checkpoint, bare)
    (bare / "tokenizer.json").unlink()
    assert run("run-plan --explain", bare) == 0
    out = capsys.readouterr().out
    assert "predicted speed" in out
    rejected = out[out.index("not chosen") :]
    assert "plain decoding" in rejected and "acceptance 0.8" in rejected  # cells wrap


@pytest.mark.parametrize("temp", ["0", "1"])
def test_run_verify_finds_no_difference(
    checkpoint: Path, temp: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    """Plain decoding reads weights as they are, so that what restores compressed ones is verified with the rest."""
    compressed = []

    def opened(pipeline, console):
        compressed.append((pipeline.method, pipeline.memory.compress))
        return session.opened(pipeline, console)

    monkeypatch.setattr(run_verify, "opened", opened)
    assert run(f"run-verify --prompt w5 --prompt w6 --temp {temp}", checkpoint) == 0
    assert compressed == [("subspec_sd", "auto"), ("vanilla", "off")]
    out = " ".join(capsys.readouterr().out.split())
    assert "No divergence" in out and "in every bit" in out


def test_run_chat_keeps_the_conversation(
    checkpoint: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("sys.stdin", io.StringIO("w5\nw6\n/stats\n/exit\nw7\n"))
    assert run("run-chat --set sampling.ignore_eos=true", checkpoint) == 0
    captured = capsys.readouterr()
    assert "> w6" in captured.out and "> w7" not in captured.out
    assert "prompt tokens kept from before" in " ".join(captured.err.split())
    assert "all 2 answers" in captured.err


def test_run_benchmark_writes_results_and_goes_on(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    data = write_questions(tmp_path / "data", ("w3", "w9"), ("w4", "w9"))
    command = f"run-benchmark --data-dir {data} --out-dir {tmp_path / 'out'} --set warmup=0"
    assert run(f"{command} --json", checkpoint) == 0
    written = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["type"] for row in written] == ["sample", "sample", "summary"]
    assert written[-1]["new_tokens"] == sum(row["new_tokens"] for row in written[:-1])
    results = tmp_path / "out" / "mt-bench"
    assert len((results / "samples.jsonl").read_text().splitlines()) == 2
    assert json.loads((results / "summary.json").read_text())["samples"] == 2
    before = (results / "samples.jsonl").read_bytes()
    assert run(command, checkpoint) == 0
    assert (results / "samples.jsonl").read_bytes() == before
    captured = capsys.readouterr()
    assert "nothing was asked" in captured.err and "--restart" in captured.err
    assert "peak process memory" in captured.out and "tokens/s" in captured.out


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda folder: shutil.rmtree(folder), "there is no folder"),
        (lambda folder: (folder / "config.json").unlink(), "no config.json"),
        (lambda folder: (folder / "tokenizer.json").unlink(), "no tokenizer"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"cut"), "truncated"),
    ],
)
def test_a_broken_checkpoint_is_one_line(
    checkpoint: Path,
    tmp_path: Path,
    spoil: Callable[[Path], None],
    words: str,
    capsys: pytest.CaptureFixture[str],
):
    broken = tmp_path / "broken"
    shutil.copytree(checkpoint, broken)
    spoil(broken)
    assert run("run-test", broken) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("error: ") and words in last and str(broken) in last


def test_a_prompt_longer_than_the_context_is_one_line(checkpoint: Path, capsys: pytest.CaptureFixture[str]):
    words = ["run-test", "--model", str(checkpoint), *COMMON.split(), "--prompt", " ".join(["w5"] * 200)]
    assert exit_code(main, words) == 2
    assert "the context holds 128" in capsys.readouterr().err


def test_an_impossible_budget_says_what_is_short(checkpoint: Path, capsys: pytest.CaptureFixture[str]):
    assert exit_code(main, ["run-plan", "--model", str(checkpoint), *COMMON.split(), "--device-memory", "4KiB"]) == 2
    error = capsys.readouterr().err
    assert "4 KiB" in error and "Give at least --device-memory" in error
