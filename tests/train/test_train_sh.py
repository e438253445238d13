"""The script says what it takes and refuses what it cannot do, before anything is installed."""

from __future__ import annotations

import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def script(*words):
    return subprocess.run(["bash", str(ROOT / "train.sh"), *words], capture_output=True, text=True, timeout=60)


def test_help_names_the_options():
    done = script("--help")
    assert done.returncode == 0 and "--architecture" in done.stderr


def test_a_target_of_ones_own_needs_a_folder_for_its_head():
    done = script("--target", "org/model")
    assert done.returncode == 1 and "--out is needed" in done.stderr


def test_an_option_without_its_value_is_refused():
    done = script("--data")
    assert done.returncode == 1 and "--data needs a value" in done.stderr
