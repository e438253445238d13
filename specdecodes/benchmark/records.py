"""What a run leaves behind: one JSON line a sample, the settings, the summary; valid after a kill at any moment."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from specdecodes.errors import SpecDecodesError
from specdecodes.stats import Generation, Round

ROUND_FIELDS = tuple(spec.name for spec in fields(Round))


class ResultsError(SpecDecodesError):
    """Results that cannot be written, read, or joined with those already there."""


class SampleLog:
    """The samples finished so far, kept in `folder`/samples.jsonl. One process at a time writes it."""

    def __init__(self, path: Path, file: int, records: dict[str, dict[str, Any]]) -> None:
        self.path = path
        self.records = records  # by sample id; the last line of an id counts
        self._file = file

    def append(self, record: Mapping[str, Any]) -> None:
        """Add one line, on disk when this returns. Raises ResultsError and leaves the file as it was when it cannot."""
        line = memoryview(json.dumps(record, ensure_ascii=False).encode() + b"\n")
        size = os.fstat(self._file).st_size
        try:
            while line:
                line = line[os.write(self._file, line) :]
            os.fsync(self._file)
        except OSError as error:
            os.ftruncate(self._file, size)
            raise _unwritable(self.path, error) from error
        self.records[record["id"]] = dict(record)


@contextmanager
def open_log(folder: Path, settings: Mapping[str, Any], notify: Callable[[str], None]) -> Iterator[SampleLog]:
    """The log in `folder`, made when missing, else continued; a last line that a kill cut short is dropped.

    Raises ResultsError when its samples were made with other settings (naming them), or when another process holds it.
    """
    path = folder / "samples.jsonl"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
    except OSError as error:
        raise _unwritable(path, error) from error
    try:
        _lock(file, folder)
        records = _read(file, path, notify)
        _agree(folder, settings, fresh=not records)
        yield SampleLog(path, file, records)
    finally:
        os.close(file)


def write_json(path: Path, value: Any) -> None:
    """Write `value` so that `path` holds either its old content or all of the new. Raises ResultsError."""
    partial = path.with_suffix(".partial")
    try:
        with partial.open("w", encoding="utf-8") as file:
            json.dump(value, file, indent=2, ensure_ascii=False)
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise _unwritable(path, error) from error


def read_json(path: Path) -> dict[str, Any] | None:
    """What `write_json` wrote there; None when nothing was. Raises ResultsError."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise ResultsError(f"{path} cannot be read ({error}); choose another --out-dir or remove it.") from error


def encode(generation: Generation) -> dict[str, Any]:
    """`generation` as plain data; its rounds become one list a field, which keeps long runs readable and small."""
    row = asdict(generation)
    row["rounds"] = {name: [round_[name] for round_ in row["rounds"]] for name in ROUND_FIELDS}
    return row


def decode(row: Mapping[str, Any]) -> Generation:
    """The inverse of `encode`, also after a trip through JSON."""
    columns = (row["rounds"][name] for name in ROUND_FIELDS)
    rounds = tuple(Round(*map(_tupled, cells)) for cells in zip(*columns, strict=True))
    return Generation(**{name: _tupled(value) for name, value in row.items() if name != "rounds"}, rounds=rounds)


def _tupled(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _lock(file: int, folder: Path) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise ResultsError(
            f"another run is writing to {folder}; wait for it to end, or choose another --out-dir."
        ) from error


def _read(file: int, path: Path, notify: Callable[[str], None]) -> dict[str, dict[str, Any]]:
    data = os.pread(file, os.fstat(file).st_size, 0)
    records: dict[str, dict[str, Any]] = {}
    good = 0
    lines = data.splitlines(keepends=True)
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line)
            if not line.endswith(b"\n"):
                raise ValueError("no line end")
            records[record["id"]] = record
        except (ValueError, KeyError, TypeError) as error:
            if number < len(lines):
                raise ResultsError(f"{path}, line {number}, is not a sample; remove the line or the file.") from error
            notify(f"{path}: the last line was cut short when the run was stopped; that sample is run again.")
            os.ftruncate(file, good)
        else:
            good += len(line)
    return records


def _agree(folder: Path, settings: Mapping[str, Any], *, fresh: bool) -> None:
    """Store `settings` beside a fresh log; beside an older one, refuse when they differ from those it was made with."""
    path = folder / "settings.json"
    wanted = json.loads(json.dumps(settings))
    if fresh:
        write_json(path, wanted)
        return
    old, new = _flat(read_json(path) or {}), _flat(wanted)
    changed = [key for key in sorted(old.keys() | new.keys()) if old.get(key) != new.get(key)]
    if changed:
        listed = "; ".join(f"{key} was {old.get(key)!r} and is {new.get(key)!r}" for key in changed)
        raise ResultsError(
            f"{folder} holds samples made with other settings: {listed}. "
            f"Repeat the old settings to go on with them, choose another --out-dir, or remove {folder}."
        )


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat


def _unwritable(path: Path, error: OSError) -> ResultsError:
    return ResultsError(
        f"{path} cannot be written: {error.strerror}. Finished samples are safe; "
        "mend that and give the same command to go on, or choose another --out-dir."
    )
