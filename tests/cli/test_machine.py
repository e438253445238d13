"""What the doctor finds, and that it leaves nothing behind."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

import pytest

from specdecodes.cli import machine, main
from tests.commands import exit_code


def by_name(findings) -> dict[str, machine.Finding]:
    return {finding.name: finding for finding in findings}


@pytest.fixture(autouse=True)
def brief(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(machine, "DISK_SAMPLE", 2**20)
    monkeypatch.setattr(machine, "MEMORY_SAMPLE", 2**20)


def test_libraries_are_listed_with_their_versions():
    found = by_name(machine.software())
    assert found["torch"] == machine.Finding("torch", importlib.metadata.version("torch"), True)


def test_what_is_missing_comes_with_its_cure(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(machine, "OPTIONAL", {"no-such-package": "something fine"})
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    found = by_name(machine.software())
    assert found["no-such-package"].advice == "something fine: pip install no-such-package"
    assert found["no-such-package"].ok is None
    assert found["C++ compiler"].ok is False
    assert "g++" in found["C++ compiler"].advice


def test_the_disk_is_measured_where_it_was_asked_and_left_clean(tmp_path: Path):
    found = by_name(machine.speeds(tmp_path))
    assert str(tmp_path) in found["storage"].found
    assert float(found["disk read"].found.split()[0]) > 0
    assert float(found["memory read"].found.split()[0]) > 0
    assert list(tmp_path.iterdir()) == []


def test_large_weights_are_read_in_place(tmp_path: Path):
    (tmp_path / "model.safetensors").write_bytes(bytes(2**20))
    assert machine._sample_files(tmp_path, tmp_path / "scratch") == [tmp_path / "model.safetensors"]


def test_the_command_says_all_of_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    code, out = exit_code(main, ["run-doctor", "--folder", str(tmp_path)]), capsys.readouterr().out
    assert code == (1 if "✗" in out else 0)
    assert all(
        word in out for word in ("python", "torch", "CPU features", "memory", "CUDA", "disk read", "memory read")
    )


def test_a_folder_that_does_not_exist_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert exit_code(main, ["run-doctor", "--folder", str(tmp_path / "none")]) == 2
    assert capsys.readouterr().err.startswith(f"error: {tmp_path / 'none'} is not a folder")
