"""The log of samples: a whole line or none, one writer, settings that are never mixed."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from specdecodes.benchmark.results import journal
from specdecodes.benchmark.results.journal import open_log, write_json
from specdecodes.benchmark.results.records import ResultsError, SampleRecord


def record(name: str, **fields) -> SampleRecord:
    return SampleRecord(name, "math", ("q",), "failed", error="none", **fields)


def ids(folder):
    return [json.loads(line)["id"] for line in (folder / "samples.jsonl").read_text().splitlines()]


def test_a_write_that_fails_half_way_leaves_whole_lines(tmp_path, monkeypatch):
    write = os.write

    def half(file, data):
        if len(data) < 40:
            raise OSError(28, "No space left on device")
        return write(file, data[: len(data) // 2])

    with open_log(tmp_path, {}, print) as log:
        log.append(record("1"))
        with monkeypatch.context() as patched:
            patched.setattr(journal.os, "write", half)
            with pytest.raises(ResultsError, match="No space left on device"):
                log.append(record("2"))
        log.append(record("3"))
    assert ids(tmp_path) == ["1", "3"]


FILL = """
import resource, sys
from pathlib import Path
from specdecodes.benchmark.results.journal import open_log
from specdecodes.benchmark.results.records import ResultsError, SampleRecord
with open_log(Path(sys.argv[1]), {}, print) as log:
    resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))
    try:
        for number in range(99):
            log.append(SampleRecord(str(number), "x" * 300, ("q",), "failed"))
    except ResultsError as error:
        print(number, error)
"""


def test_a_full_disk_leaves_a_valid_file_that_the_next_run_goes_on_with(tmp_path):
    seen = subprocess.run([sys.executable, "-c", FILL, str(tmp_path)], capture_output=True, text=True, check=True)
    reached, message = seen.stdout.split(maxsplit=1)
    assert "cannot be written: File too large" in message and "same command" in message
    assert ids(tmp_path) == [str(number) for number in range(int(reached))]
    with open_log(tmp_path, {}, print) as log:
        assert len(log.records) == int(reached) > 2
        log.append(record("after"))
    assert ids(tmp_path)[-1] == "after"


def test_a_second_writer_is_refused(tmp_path):
    script = (
        "import sys\nfrom pathlib import Path\nfrom specdecodes.benchmark.results.journal import open_log\n"
        "from specdecodes.benchmark.results.records import ResultsError\n"
        "try:\n    with open_log(Path(sys.argv[1]), {}, print): pass\nexcept ResultsError as e: print(e)"
    )
    with open_log(tmp_path, {}, print):
        seen = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=True)
    assert "another run is writing" in seen.stdout


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ResultsError, match="file/out"), open_log(tmp_path / "file" / "out", {}, print):
        pass


def test_every_changed_setting_is_named(tmp_path):
    with open_log(tmp_path, {"tree": {"depth": 4, "width": 2}, "seed": 0}, print) as log:
        log.append(record("1"))
    changed = {"tree": {"depth": 8, "width": 2}, "temp": 1}
    with pytest.raises(ResultsError) as refused, open_log(tmp_path, changed, print):
        pass
    message = str(refused.value)
    assert "tree.depth was 4 and is 8" in message
    assert "seed was 0 and is not known" in message and "temp was not known and is 1" in message
    assert "width" not in message and "--restart" in message


def test_samples_of_another_format_are_not_added_to(tmp_path):
    with open_log(tmp_path, {}, print) as log:
        log.append(record("1"))
    (tmp_path / "settings.json").write_text('{"format": 1}')
    with pytest.raises(ResultsError, match="format was 1 and is 2"), open_log(tmp_path, {}, print):
        pass


def test_a_failed_write_keeps_the_old_summary(tmp_path, monkeypatch):
    path = tmp_path / "summary.json"
    write_json(path, {"a": 1})

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ResultsError):
        write_json(path, {"a": 2})
    assert json.loads(path.read_text()) == {"a": 1}
    assert list(tmp_path.iterdir()) == [path]
