"""`run-compress`: the size first, then the files, and a second time nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from specdecodes import native
from specdecodes.cli import main
from tests.commands import exit_code

pytestmark = pytest.mark.skipif(native.find_compiler() is None, reason="no C++ compiler")


def told(folder: Path, budget: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    options = f"--model {folder} --device-memory {budget} --max-length 128 --eager --set method=vanilla"
    return exit_code(main, ["run-compress", *options.split()]), capsys.readouterr().err


def test_the_size_is_told_before_files_are_written_once(
    tiny_checkpoint: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("specdecodes.offload.compression.compressed.cache_folder", lambda: tmp_path)
    folder = tiny_checkpoint("llama", "bf16", num_hidden_layers=10, hidden_size=128, intermediate_size=512)
    code, first = told(folder, "5MB", capsys)
    assert code == 0
    assert first.index("writing") < first.index("free there") < first.index("wrote") < first.index("layers take")
    files = list((tmp_path / "compressed").rglob("*.weights"))
    code, second = told(folder, "5MB", capsys)
    assert code == 0 and f"{len(files)} layers take" in second and "writing" not in second
    code, none = told(folder, "1GiB", capsys)
    assert code == 2 and "nothing streams from disk" in none
