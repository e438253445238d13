"""Files that stay valid after a kill at any moment: samples appended one by one, small files replaced as a whole."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from specdecodes.benchmark.results.records import FORMAT, ResultsError, SampleRecord, from_row, to_row
from specdecodes.folders import replacing
from specdecodes.notify import Notify

SAMPLES, SETTINGS, RUN, SUMMARY = "samples.jsonl", "settings.json", "run.json", "summary.json"


class SampleLog:
    """The samples finished so far, kept in `folder`/samples.jsonl. One process at a time writes it."""

    def __init__(self, path: Path, file: int, records: dict[str, SampleRecord]) -> None:
        self.path = path
        self.records = records  # by sample id; the last line of an id counts
        self._file = file

    def append(self, record: SampleRecord) -> None:
        """Add one line, on disk when this returns. Raises ResultsError and leaves the file as it was when it cannot."""
        line = memoryview(json.dumps(to_row(record), ensure_ascii=False).encode() + b"\n")
        size = os.fstat(self._file).st_size
        try:
            while line:
                line = line[os.write(self._file, line) :]
            os.fsync(self._file)
        except OSError as error:
            with contextlib.suppress(OSError):  # what stays of the line is dropped by the next run
                os.ftruncate(self._file, size)
            raise _unwritable(self.path, error) from error
        self.records[record.id] = record


@contextlib.contextmanager
def open_log(folder: Path, settings: Mapping[str, Any], notify: Notify) -> Iterator[SampleLog]:
    """The log in `folder`, made when missing, else continued; a last line that a kill cut short is dropped.

    Raises ResultsError when its samples were made with other settings (naming them) or in another format, or when
    another process holds it.
    """
    path = folder / SAMPLES
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
    except OSError as error:
        raise _unwritable(path, error) from error
    try:
        _lock(file, folder)
        data = os.pread(file, os.fstat(file).st_size, 0)
        records, good = parse(data, path)
        if good < len(data):
            notify(f"{path}: the last line was cut short when the run was stopped; that sample is run again.")
            os.ftruncate(file, good)
        _agree(folder, settings, fresh=not records)
        yield SampleLog(path, file, records)
    finally:
        os.close(file)


def parse(data: bytes, path: Path) -> tuple[dict[str, SampleRecord], int]:
    """The records in the bytes of a `samples.jsonl`, by id in the order they were first asked, and how many bytes of
    whole lines there are: a last line may be cut short. Raises ResultsError for any other line that is no record."""
    records: dict[str, SampleRecord] = {}
    good = 0
    lines = data.splitlines(keepends=True)
    for number, line in enumerate(lines, 1):
        try:
            record = from_row(json.loads(line))
            if not line.endswith(b"\n"):
                raise ValueError("no line end")
        except (ValueError, KeyError, TypeError) as error:
            if number < len(lines):
                raise ResultsError(f"{path}, line {number}, is not a sample; remove the line or the file.") from error
        else:
            records[record.id] = record
            good += len(line)
    return records, good


def write_json(path: Path, value: Any) -> None:
    """Write `value` so that `path` holds either its old content or all of the new. Raises ResultsError."""
    try:
        with replacing(path) as file:
            file.write(f"{json.dumps(value, indent=2, ensure_ascii=False)}\n".encode())
    except OSError as error:
        raise _unwritable(path, error) from error


def read_json(path: Path) -> dict[str, Any] | None:
    """What `write_json` wrote there; None when nothing was. Raises ResultsError."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise ResultsError(f"{path} cannot be read ({error}); choose another --out-dir or remove it.") from error


def drop(folder: Path) -> None:
    """Forget the results in `folder`; other files there stay."""
    for name in (SAMPLES, SETTINGS, RUN, SUMMARY):
        (folder / name).unlink(missing_ok=True)


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as one level of dotted keys."""
    leaves: dict[str, Any] = {}
    for key, value in tree.items():
        leaves |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return leaves


def _lock(file: int, folder: Path) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise ResultsError(
            f"another run is writing to {folder}; wait for it to end, or choose another --out-dir."
        ) from error


def _agree(folder: Path, settings: Mapping[str, Any], *, fresh: bool) -> None:
    """Store `settings` beside a fresh log; beside an older one, refuse when they differ from those it was made with."""
    path = folder / SETTINGS
    wanted = json.loads(json.dumps({"format": FORMAT, **settings}))
    if fresh:
        write_json(path, wanted)
        return
    old, new = flat(read_json(path) or {}), flat(wanted)
    changed = [key for key in sorted(old.keys() | new.keys()) if old.get(key) != new.get(key)]
    if changed:
        listed = "; ".join(f"{key} was {_shown(old, key)} and is {_shown(new, key)}" for key in changed)
        raise ResultsError(
            f"{folder} holds samples made with other settings: {listed}. Repeat the old settings to go on with them, "
            f"choose another --out-dir, or drop them with --restart."
        )


def _shown(settings: Mapping[str, Any], key: str) -> str:
    return repr(settings[key]) if key in settings else "not known"


def _unwritable(path: Path, error: OSError) -> ResultsError:
    return ResultsError(
        f"{path} cannot be written: {error.strerror}. Finished samples are safe; "
        "mend that and give the same command to go on, or choose another --out-dir."
    )
