from __future__ import annotations

import os
from fcntl import LOCK_EX, flock
from pathlib import Path

import pytest

from specdecodes.errors import ConfigError
from specdecodes.folders import cache_folder, remember, remembered, replacing


def test_the_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SPECDECODES_CACHE", str(tmp_path / "own"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "own"
    monkeypatch.delenv("SPECDECODES_CACHE")
    assert cache_folder() == tmp_path / "xdg" / "specdecodes"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "specdecodes"


@pytest.mark.parametrize("own", [None, "~/cache"])
def test_a_user_without_a_home_is_told_what_to_set(own: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless(path: object = None) -> Path:
        raise RuntimeError("Could not determine home directory.")

    for name in ("SPECDECODES_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    if own is not None:
        monkeypatch.setenv("SPECDECODES_CACHE", own)
    monkeypatch.setattr(Path, "home", homeless)
    monkeypatch.setattr(Path, "expanduser", homeless)
    with pytest.raises(ConfigError, match="set SPECDECODES_CACHE"):
        cache_folder()


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "new" / "kept.json"
    with replacing(path) as file:
        file.write(b"old")
        assert not path.exists()
    with pytest.raises(ZeroDivisionError), replacing(path) as file:
        file.write(b"half of the new")
        raise ZeroDivisionError
    assert path.read_bytes() == b"old" and list(path.parent.iterdir()) == [path]


def test_what_is_remembered_survives_whatever_becomes_of_its_file(tmp_path: Path) -> None:
    path = tmp_path / "new" / "kept.json"
    assert remembered(path) == {}
    remember(path, {"a": [1.5]})
    assert remembered(path) == {"a": [1.5]}
    for broken in ("{broken", "[1]"):
        path.write_text(broken)
        assert remembered(path) == {}
    remember(path / "below a file", {"a": 1})
    assert path.read_text() == "[1]"


def test_what_a_kill_left_half_written_goes_the_next_time(tmp_path: Path) -> None:
    """But not what another process is writing, nor what it has only just begun."""
    old, written, new, other = (tmp_path / f".layers.{name}.part" for name in ("4.a", "4.b", "4.c", "40.a"))
    for partial in (old, written, new, other):
        partial.write_bytes(b"half")
        os.utime(partial, (0, 0) if partial != new else None)
    with written.open("rb") as file:
        flock(file, LOCK_EX)
        with replacing(tmp_path / "layers.4.weights") as made:
            made.write(b"whole")
    assert sorted(tmp_path.iterdir()) == sorted([written, new, other, tmp_path / "layers.4.weights"])
