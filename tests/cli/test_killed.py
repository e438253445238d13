"""A real run that is killed again and again ends with the tokens and the counts of one that never was."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path
from random import Random

import pytest

from specdecodes.benchmark.results.reading import Results, find_results
from specdecodes.cli import main

OPTIONS = (
    "--eager --exact --device-memory 2GiB --max-length 128 --max-tokens 8 --set draft.quant=hqq4:g32 "
    "--set tree.depth=2 --set warmup=0 --set tree.adaptive=false --set sampling.ignore_eos=true --temp 1"
)
SAMPLES = 10
KILLS = 5
PATIENCE_SECONDS = 60
IMPORTED_ONCE = [
    "specdecodes.methods",
    "specdecodes.benchmark.runner",
    "transformers.models.llama.configuration_llama",
    "transformers.tokenization_utils_tokenizers",
]


@pytest.fixture
def start(tiny_checkpoint: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable]:
    """`start(folder)` runs the benchmark into `folder` in a process of its own, with torch already imported."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    questions = tmp_path / "data" / "mt-bench" / "question.jsonl"
    questions.parent.mkdir(parents=True)
    rows = [{"question_id": n, "category": "words", "turns": [f"w{n + 3}", f"w{n + 40}"]} for n in range(SAMPLES)]
    questions.write_text("\n".join(map(json.dumps, rows)))
    model = tiny_checkpoint("llama", "bf16")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(IMPORTED_ONCE)
    started: list[BaseProcess] = []

    def run(folder: Path, more: str = "") -> BaseProcess:
        words = f"run-benchmark --data-dir {tmp_path / 'data'} --out-dir {folder} --model {model} {OPTIONS} {more}"
        process = context.Process(target=interruptible, args=(words.split(),))
        process.start()
        started.append(process)
        return process

    yield run
    for process in started:
        process.kill()
        process.join()


def interruptible(words: list[str]) -> None:
    """The command line, with a Ctrl-C that arrives also where the tests were started in the background of a script."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    main(words)


def kept(folder: Path) -> int:
    path = folder / "mt-bench" / "samples.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def wait_for(process: BaseProcess, folder: Path, lines: int) -> None:
    """Until the log holds `lines`; a process that ends before is a failure of the test."""
    limit = time.monotonic() + PATIENCE_SECONDS
    while kept(folder) < lines or not (folder / "mt-bench" / "run.json").exists():
        assert process.is_alive() and time.monotonic() < limit
        time.sleep(0.001)


def finish(process: BaseProcess) -> None:
    process.join(PATIENCE_SECONDS)
    assert process.exitcode == 0


def tokens(results: Results) -> dict[str, tuple]:
    return {record.id: record.tokens for record in results.records}


@pytest.mark.long
def test_a_run_killed_five_times_says_what_an_uninterrupted_one_says(start: Callable, tmp_path: Path):
    finish(start(tmp_path / "whole"))
    whole = find_results(tmp_path / "whole")["mt-bench"]
    each = sum(record.seconds for record in whole.records) / SAMPLES
    dice = Random(11)
    for kill in range(KILLS):
        process = start(tmp_path / "killed")
        wait_for(process, tmp_path / "killed", kept(tmp_path / "killed") + (kill > 0))
        time.sleep(dice.uniform(0, each))
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        so_far = find_results(tmp_path / "killed")["mt-bench"]
        assert tokens(so_far).items() <= tokens(whole).items()
    assert KILLS - 1 <= len(so_far.done) < SAMPLES
    finish(start(tmp_path / "killed"))
    killed = find_results(tmp_path / "killed")["mt-bench"]
    assert list(tokens(killed).items()) == list(tokens(whole).items())
    assert counted(killed) == counted(whole)


@pytest.mark.long
def test_ctrl_c_leaves_with_130_and_the_finished_samples(start: Callable, tmp_path: Path):
    process = start(tmp_path / "stopped", "--max-tokens 48")  # long enough to be stopped in time on a busy machine
    wait_for(process, tmp_path / "stopped", 1)
    os.kill(process.pid, signal.SIGINT)
    process.join(PATIENCE_SECONDS)
    assert process.exitcode == 130
    assert 1 <= len(find_results(tmp_path / "stopped")["mt-bench"].done) < SAMPLES


def counted(results: Results) -> dict:
    """All of a summary but clocks and memory."""
    summary = json.loads((results.folder / "summary.json").read_text())
    names = ("samples", "requests", "new_tokens", "prompt_tokens", "cached_tokens", "tau", "tokens_per_round", "rounds")
    more = ("accepted_by_depth", "tau_interval", "finish_reasons", "failed", "draft_levels")
    return {name: summary[name] for name in (*names, *more)}
