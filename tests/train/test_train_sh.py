"""The script says what it takes, refuses what it cannot do before anything is installed, and runs its three steps."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def script(*words, cwd=ROOT):
    return subprocess.run(["bash", ROOT / "train.sh", *words], capture_output=True, text=True, timeout=60, cwd=cwd)


def test_help_names_the_options():
    done = script("--help")
    assert done.returncode == 0 and "--architecture" in done.stderr


def test_a_target_of_ones_own_needs_a_folder_for_its_head():
    done = script("--target", "org/model")
    assert done.returncode == 1 and "--out is needed" in done.stderr


def test_an_option_without_its_value_is_refused():
    done = script("--data")
    assert done.returncode == 1 and "--data needs a value" in done.stderr


def test_an_unknown_architecture_is_refused_before_anything_runs():
    done = script("--architecture", "eagle2")
    assert done.returncode == 1 and "eagle or eagle3, not eagle2" in done.stderr


@pytest.fixture
def staged(tmp_path, monkeypatch):
    """The script in an environment whose Python only notes what it is asked to run; returns those lines and stderr."""
    python = tmp_path / "env" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\n')
    python.chmod(0o755)
    monkeypatch.setenv("VIRTUAL_ENV", str(tmp_path / "env"))

    def run(*words, cwd=ROOT):
        done = script(*words, cwd=cwd)
        assert done.returncode == 0, done.stderr
        return [line for line in (tmp_path / "asked").read_text().splitlines() if "specdecodes" in line], done.stderr

    return run


def test_without_options_the_demo_answers_is_read_and_gets_its_head(staged):
    (check, answers, allocation, training), said = staged("--epochs", "2")
    assert "parse_args" in check and "--epochs 2" in check
    assert f"data_gen.answers --target {ROOT}/assets/demo " in answers and "--count 1000" in answers
    assert "--architecture eagle --outdir" in allocation and "chats.jsonl" in allocation
    assert f"--out {ROOT}/assets/demo-eagle --run-dir {ROOT}/results/train-demo-eagle/run" in training
    assert training.index("--epochs 10") < training.index("--epochs 2")  # the user's word is the last
    assert said.splitlines()[-1].strip().endswith(f"-ssm {ROOT}/assets/demo-eagle --mode sd-eagle")


def test_another_architecture_has_folders_of_its_own(staged):
    (_, answers, allocation, training), said = staged("--architecture", "eagle3")
    assert f"{ROOT}/results/train-demo-eagle3/chats.jsonl" in answers and "--architecture eagle3" in allocation
    assert f"--out {ROOT}/assets/demo-eagle3 " in training and "--steps" in training
    assert f"-ssm {ROOT}/assets/demo-eagle3 --mode sd-eagle --device-memory" in said


def test_the_command_to_go_on_with_works_from_where_the_script_was_called(staged, tmp_path):
    (tmp_path / "my model").mkdir()
    words = ("--target", "my model", "--data", "chats.jsonl", "--out", "head", "--device-memory", "8GiB")
    (_, allocation, training), said = staged(*words, cwd=tmp_path)
    assert f"--target {tmp_path}/my model --data chats.jsonl" in allocation and "--device-memory 8GiB" in allocation
    assert f"--out {tmp_path}/head" in training and "--rate" not in training
    last = said.splitlines()[-1]
    assert last.strip().startswith(f"cd {ROOT} && ") and f"-llm {tmp_path}/my\\ model -ssm {tmp_path}/head" in last
    assert "--device-memory 8GiB" in last
