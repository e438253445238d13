"""Where MT-Bench's questions come from, and that it is always said."""

from __future__ import annotations

import json

import pytest

from specdecodes.benchmark import questions
from specdecodes.benchmark.questions import mt_bench
from specdecodes.benchmark.questions.samples import Benchmark
from specdecodes.benchmark.questions.sources import question, read_samples
from specdecodes.errors import ConfigError

CATEGORIES = {"writing", "roleplay", "reasoning", "math", "coding", "extraction", "stem", "humanities"}


@pytest.fixture
def no_hub(monkeypatch):
    monkeypatch.setattr(mt_bench, "_download", not_downloaded)
    monkeypatch.setattr(mt_bench, "reachable", lambda url: False)


def not_downloaded(*, local_files_only):
    raise mt_bench.LocalEntryNotFoundError("not there")


def test_the_bundled_questions_are_of_mt_bench_s_shape():
    samples = read_samples(mt_bench.BUNDLED, question)
    assert len(samples) == 16
    assert all(len(sample.turns) == 2 for sample in samples)
    assert {sample.category for sample in samples} == CATEGORIES


def test_without_a_hub_the_bundled_questions_are_used_and_named(no_hub):
    loaded = questions.load("mt-bench")
    assert len(loaded.samples) == 16
    assert "bundled" in loaded.source
    assert "the hub was not reached" in loaded.source


def test_offline_mode_asks_no_network(no_hub, monkeypatch):
    monkeypatch.setattr(mt_bench.constants, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE" in questions.load("mt-bench").source


def test_downloaded_questions_come_before_the_bundled(monkeypatch, tmp_path):
    path = tmp_path / "question.jsonl"
    path.write_text(json.dumps({"question_id": 81, "category": "writing", "turns": ["a", "b"]}))
    monkeypatch.setattr(mt_bench, "_download", lambda *, local_files_only: str(path))
    loaded = questions.load("mt-bench")
    assert [sample.id for sample in loaded.samples] == ["81"]
    assert "hub" in loaded.source


def test_a_data_dir_is_used_or_refused_but_never_replaced(tmp_path):
    with pytest.raises(ConfigError, match=r"mt-bench/question\.jsonl does not exist. Download https"):
        questions.load("mt-bench", tmp_path)
    path = tmp_path / "mt-bench" / "question.jsonl"
    path.parent.mkdir()
    path.write_text(json.dumps({"question_id": 81, "turns": ["a", "b"], "reference": []}) + "\n\n")
    loaded = questions.load("mt-bench", tmp_path)
    assert loaded.samples[0].turns == ("a", "b")
    assert str(path) in loaded.source


def test_equal_questions_have_equal_digests_wherever_they_are(tmp_path):
    path = tmp_path / "copy.jsonl"
    path.write_bytes(mt_bench.BUNDLED.read_bytes())
    first = Benchmark("a", "here", read_samples(mt_bench.BUNDLED, question))
    assert first.sha256 == Benchmark("b", "there", read_samples(path, question)).sha256
