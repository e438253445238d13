"""What is kept on disk is listed with its size and its origin, and cleared by name or whole."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from run.main import run
from specdecodes.cli import main
from specdecodes.config import Memory, Pipeline, Target
from specdecodes.folders import cache_folder
from specdecodes.methods import build
from specdecodes.units import format_bytes
from tests.commands import exit_code


@pytest.fixture
def cache(tiny_checkpoint: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder that a run has filled."""
    (tmp_path / "kernels").symlink_to(cache_folder() / "kernels")  # building them takes longer than the test
    monkeypatch.setenv("SPECDECODES_CACHE", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "200")
    target = Target(str(tiny_checkpoint("llama")), device="cpu", quant="hqq4:g32")
    pipeline = Pipeline("vanilla", target, memory=Memory("2GiB"), max_length=32, compile=False)
    build(pipeline, progress=lambda text: None).close()
    return tmp_path


def outcome(
    words: str, capsys: pytest.CaptureFixture[str], call: Callable[[list[str]], None] = main
) -> tuple[int, str]:
    code, captured = exit_code(call, words.split()), capsys.readouterr()
    return code, captured.out + captured.err


def test_what_is_kept_is_listed_with_its_origin(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out = outcome("run-cache", capsys, run)
    size = sum(path.stat().st_size for path in (cache / "substitutes").rglob("*") if path.is_file())
    assert code == 0 and str(cache) in out and size > 10_000
    for words in ("substitutes", "measured.json", "kernels", "llama-fp32", "hqq4:g32", format_bytes(size)):
        assert words in out, out


def test_clearing_gives_back_what_was_named_and_nothing_else(
    cache: Path, capsys: pytest.CaptureFixture[str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    (cache / "my-own-notes").write_text("not ours to remove")
    code, out = outcome("run-cache clear substitutes", capsys)
    assert code == 0 and "given back: substitutes" in out and not (cache / "substitutes").exists()
    assert (cache / "measured.json").exists()
    (cache / "kernels").unlink()  # a link of this test's
    code, out = outcome("run-cache clear", capsys)
    assert code == 0 and [path.name for path in cache.iterdir()] == ["my-own-notes"]
    (cache / "kernels").symlink_to(tmp_path_factory.mktemp("elsewhere"))
    code, out = outcome("run-cache clear", capsys)
    assert code == 2 and "kernels cannot be removed" in out and "symbolic link" in out
    (cache / "kernels").unlink()
    assert "there was nothing" in outcome("run-cache clear", capsys)[1]
    assert outcome("run-cache", capsys)[0] == 0


@pytest.mark.parametrize(
    ("words", "cure"),
    [("run-cache clean", "did you mean 'clear'"), ("run-cache clear kernel", "did you mean 'kernels'")],
)
def test_a_misspelt_word_is_one_line(words: str, cure: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out = outcome(words, capsys)
    assert code == 2 and cure in out
