"""A record survives the trip through JSON, and files of other versions are read or refused by name."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from specdecodes.benchmark.results.records import FORMAT, ResultsError, SampleRecord, decode, encode, from_row, to_row
from specdecodes.stats import LevelWork


def trip(row):
    return json.loads(json.dumps(row))


def test_a_generation_survives_the_trip_through_json(answered):
    for generation in (answered(), answered(tokens=1), answered(tokens=31, accepted=0)):
        assert decode(trip(encode(generation))) == generation


def test_the_work_of_middle_models_survives_too(answered):
    generation = answered()
    rounds = tuple(replace(r, middles=(LevelWork(2, 9, 3, 5), LevelWork(1, 4))) for r in generation.rounds)
    generation = replace(generation, rounds=rounds)
    assert decode(trip(encode(generation))) == generation


def test_a_record_survives_the_trip_through_json(answered):
    done = SampleRecord("1", "math", ("a", "b"), "done", (answered(), answered()), score=1.0, scoring={"note": "n"})
    failed = SampleRecord("2", "math", ("a",), "failed", error="StreamError: gone")
    for record in (done, failed):
        assert from_row(trip(to_row(record))) == record


def test_whoever_looks_at_the_file_finds_the_figures(answered):
    row = to_row(SampleRecord("1", "math", ("a",), "done", (answered(tokens=7),)))
    assert (row["new_tokens"], row["tokens_per_second"], row["tau"], row["tokens_per_round"]) == (7, 3.5, 2.0, 3.0)
    assert row["answers"][0]["rounds"]["accepted"] == [2, 2]
    assert row["format"] == FORMAT


def test_records_of_older_and_newer_code_with_the_same_format_are_read(answered):
    row = trip(to_row(SampleRecord("1", "math", ("a",), "done", (answered(),))))
    for name in ("score", "scoring", "machine", "finished"):
        del row[name]
    del row["answers"][0]["rounds"]["read_seconds"]
    row["mood"] = row["answers"][0]["mood"] = "unknown to this code"
    row["answers"][0]["rounds"]["mood"] = ["unknown to this code"]
    record = from_row(row)
    assert (record.score, record.answers[0].rounds[0].read_seconds) == (None, 0.0)


def test_another_format_is_refused_by_its_number(answered):
    row = to_row(SampleRecord("1", "math", ("a",), "done", (answered(),)))
    with pytest.raises(ResultsError, match=f"format {FORMAT + 1} "):
        from_row(row | {"format": FORMAT + 1})
