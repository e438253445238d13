"""Records: a whole line or none, one writer, and the round trip through JSON."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from specdecodes.benchmark import records
from specdecodes.benchmark.records import ResultsError, decode, encode, open_log, write_json


def test_a_generation_survives_the_trip_through_json(answered):
    for generation in (answered(), answered(tokens=1), answered(tokens=31, accepted=0)):
        assert decode(json.loads(json.dumps(encode(generation)))) == generation


def test_a_full_disk_leaves_whole_lines(tmp_path, monkeypatch):
    write = os.write

    def half(file, data):
        if len(data) < 40:
            raise OSError(28, "No space left on device")
        return write(file, data[: len(data) // 2])

    with open_log(tmp_path, {}, print) as log:
        log.append({"id": "1", "status": "done"})
        with monkeypatch.context() as patched:
            patched.setattr(records.os, "write", half)
            with pytest.raises(ResultsError, match="No space left on device"):
                log.append({"id": "2", "status": "done", "text": "x" * 100})
        log.append({"id": "3", "status": "done"})
    rows = [json.loads(line) for line in (tmp_path / "samples.jsonl").read_text().splitlines()]
    assert [row["id"] for row in rows] == ["1", "3"]


def test_a_second_writer_is_refused(tmp_path):
    script = (
        "import sys\nfrom pathlib import Path\nfrom specdecodes.benchmark.records import ResultsError, open_log\n"
        "try:\n    with open_log(Path(sys.argv[1]), {}, print): pass\nexcept ResultsError as e: print(e)"
    )
    with open_log(tmp_path, {}, print):
        seen = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=True)
    assert "another run is writing" in seen.stdout


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ResultsError, match="file/out"), open_log(tmp_path / "file" / "out", {}, print):
        pass


def test_a_failed_write_keeps_the_old_summary(tmp_path, monkeypatch):
    path = tmp_path / "summary.json"
    write_json(path, {"a": 1})

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(records.os, "fsync", full)
    with pytest.raises(ResultsError):
        write_json(path, {"a": 2})
    assert json.loads(path.read_text()) == {"a": 1}
    assert list(tmp_path.iterdir()) == [path]
