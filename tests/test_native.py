from __future__ import annotations

import ctypes
import errno
import os
import re
import stat
import sys
from pathlib import Path

import pytest

from specdecodes import native
from specdecodes.errors import CompileError, DiskError

HAS_COMPILER = pytest.mark.skipif(native.find_compiler() is None, reason="no C++ compiler")
SOURCES = sorted((Path(__file__).parents[1] / "specdecodes").rglob("*.cpp"))


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "answer.cpp"
    path.write_text('extern "C" int answer() { return 42; }\n')
    return path


@HAS_COMPILER
def test_builds_once(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "made" / "here"
    library = native.build(source, folder)
    assert ctypes.CDLL(str(library)).answer() == 42
    assert [path.name for path in folder.iterdir()] == [library.name]
    monkeypatch.setattr(native, "_compile", lambda *_: pytest.fail("built again"))
    assert native.build(source, folder) == library


@HAS_COMPILER
def test_a_damaged_library_is_built_anew(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPECDECODES_CACHE", str(tmp_path))
    library = native.build(source)
    library.write_bytes(b"")
    assert native.load(source).answer() == 42
    assert library.stat().st_size


@HAS_COMPILER
def test_a_changed_source_is_built_anew(source: Path, tmp_path: Path) -> None:
    first = native.build(source, tmp_path / "made")
    source.write_text('extern "C" int answer() { return 43; }\n')
    second = native.build(source, tmp_path / "made")
    assert first != second
    assert ctypes.CDLL(str(second)).answer() == 43


def included(path: Path) -> set[Path]:
    names = re.findall(r'^#include "(.+)"', path.read_text(encoding="utf-8"), re.MULTILINE)
    return {(path.parent / name).resolve(strict=True) for name in names}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_a_source_names_every_header_that_it_needs(path: Path) -> None:
    """A change of any other would build nothing anew."""
    assert {inner for header in included(path) for inner in included(header)} <= included(path)


@HAS_COMPILER
@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_every_source_builds(path: Path) -> None:
    """Where torch stands in for a kernel that does not, nothing else would say so."""
    assert native.load(path)


@HAS_COMPILER
@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_no_source_is_compiled_many_times_over(path: Path) -> None:
    """Every new user waits for it: attention alone took 30 s, and 520 kB, when each kind of rows had its own."""
    assert native.build(path).stat().st_size < 350_000


@HAS_COMPILER
def test_a_source_that_does_not_compile_leaves_nothing(source: Path, tmp_path: Path) -> None:
    source.write_text("int answer() { return nothing; }\n")
    with pytest.raises(CompileError, match=r"could not build answer\.cpp: .*nothing"):
        native.build(source, tmp_path / "made")
    assert list((tmp_path / "made").iterdir()) == []


@HAS_COMPILER
def test_a_kernel_that_torch_stands_in_for_is_tried_once(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPECDECODES_CACHE", str(tmp_path / "kept"))
    source.write_text("int answer() { return nothing; }\n")
    library, missing = native.load_if_built(source)
    assert library is None and "could not build answer.cpp" in missing and not missing.endswith(".")
    monkeypatch.setattr(native, "_compile", lambda *_: pytest.fail("compiled again"))
    assert native.load_if_built(source).missing == missing


def test_no_compiler_says_what_to_install(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(CompileError, match="install g"):
        native.build(source, tmp_path / "made")


def test_cxx_names_the_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = tmp_path / "my-compiler"
    mine.write_text("#!/bin/sh\n")
    mine.chmod(mine.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("CXX", str(mine))
    assert native.find_compiler() == str(mine)
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert native.find_compiler() is None


def test_what_triton_lacks_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    why = native.missing_triton.__wrapped__
    monkeypatch.setattr(native, "find_spec", lambda name: None)
    assert "CUDA build" in why()
    monkeypatch.setattr(native, "find_spec", lambda name: object())
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    assert "install gcc" in why()
    monkeypatch.setenv("CC", sys.executable)
    assert why() == ""


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS])
def test_a_folder_that_cannot_be_written_is_named(
    number: int, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(compiler: str, source: Path, library: Path) -> None:
        raise OSError(number, os.strerror(number), str(library))

    monkeypatch.setattr(native, "find_compiler", lambda: "a compiler")
    monkeypatch.setattr(native, "_compile", refuse)
    with pytest.raises(DiskError, match=f"{tmp_path}.*{os.strerror(number)}.*SPECDECODES_CACHE"):
        native.build(source, tmp_path / "made")


def test_a_disk_that_is_full_while_compiling_is_no_fault_of_the_source(source: Path, tmp_path: Path) -> None:
    compiler = tmp_path / "compiler"
    compiler.write_text(f"#!/bin/sh\necho 'error: {os.strerror(errno.ENOSPC)}' >&2\nexit 1\n")
    compiler.chmod(0o755)
    with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
        native._compile(str(compiler), source, tmp_path / "made.so")
