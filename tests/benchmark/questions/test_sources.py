"""Reading questions: every format, what is missing and what is broken is said, nothing is replaced in silence."""

from __future__ import annotations

import gzip
import hashlib
import json
import sys
import urllib.error

import pytest

from specdecodes.benchmark import questions
from specdecodes.benchmark.questions import sources
from specdecodes.benchmark.questions.samples import Sample
from specdecodes.benchmark.questions.sources import Hub, MissingDataError, Web, question, read_rows, read_samples, text
from specdecodes.errors import ConfigError

ROW = {"question": "How many are 2 and 3?\u2028Say it.", "answer": "5 #### 5"}


def sample(row, number):
    return Sample(str(number), "", (text(row, "question"),))


HUB = Hub("somebody/questions", "main", "test", sample, ("question",))


def test_rows_are_the_same_in_every_format(tmp_path):
    rows = [ROW, {"question": 'b,\n"c"', "answer": "1"}]
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (tmp_path / "a.jsonl").write_text(lines + "\n")
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    (tmp_path / "a.json").write_text(json.dumps(rows))
    table = ['"question","answer"', f'"{ROW["question"]}","{ROW["answer"]}"', '"b,\n""c""","1"']
    (tmp_path / "a.csv").write_text("\n".join(table) + "\n")
    for name in ("a.jsonl", "a.jsonl.gz", "a.json", "a.csv"):
        assert list(read_rows(tmp_path / name)) == rows, name


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "holds no questions"),
        ("not json", "row 1, cannot be read"),
        ("[1]", "row 1, cannot be read: not an object"),
        ('{"question_id": 1, "turns": ["a"]}\n{"turns', "row 2, cannot be read"),
        ('{"turns": ["a"]}', "row 1: no 'question_id'"),
        ('{"question_id": 1, "turns": []}', "row 1: 'turns'"),
        ('{"question_id": 1, "turns": "ab"}', "row 1: 'turns'"),
        ('{"question_id": 1, "turns": [" "]}', "row 1: 'turns'"),
        ('{"question_id": 1, "turns": ["a"]}\n{"question_id": 1, "turns": ["b"]}', "an id more than once"),
    ],
)
def test_an_unusable_file_is_refused_by_name_and_row(tmp_path, content, said):
    path = tmp_path / "question.jsonl"
    path.write_text(content)
    with pytest.raises(ConfigError, match=r"question\.jsonl.*" + said):
        read_samples(path, question)


def test_a_cut_gzip_file_is_refused(tmp_path):
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(json.dumps(ROW).encode())[:-12])
    with pytest.raises(ConfigError, match=r"a\.jsonl\.gz"):
        list(read_rows(path))


def test_a_missing_file_is_named_with_its_origin_and_its_place(tmp_path):
    with pytest.raises(MissingDataError) as caught:
        questions.load("gsm8k", tmp_path)
    said = str(caught.value)
    assert f"neither {tmp_path}/gsm8k/test.jsonl nor {tmp_path}/gsm8k/eagle_question.jsonl" in said
    assert "Download https://raw.githubusercontent.com/openai/grade-school-math/" in said
    assert f"to {tmp_path}/gsm8k/test.jsonl" in said
    assert "openai/gsm8k (configuration main, split test)" in said


def test_all_that_is_missing_is_said_at_once(tmp_path):
    with pytest.raises(MissingDataError) as caught:
        questions.load_all("all", tmp_path)
    said = str(caught.value)
    assert all(f"{tmp_path}/{name}/" in said for name in questions.BENCHMARKS)


def test_the_full_set_comes_before_the_80(tmp_path):
    folder = tmp_path / "gsm8k"
    folder.mkdir()
    eighty = {"question_id": 7, "category": "math", "turns": ["2 + 3?"], "reference": ["2+3=5\n#### 1,005"]}
    (folder / "eagle_question.jsonl").write_text(json.dumps(eighty))
    loaded = questions.load("gsm8k", tmp_path)
    assert loaded.samples[0].turns == ("2 + 3?",)
    assert loaded.samples[0].reference == {"answer": "1005"}
    assert "eagle_question.jsonl" in loaded.source
    (folder / "test.jsonl").write_text(json.dumps(ROW))
    assert "test.jsonl" in questions.load("gsm8k", tmp_path).source


def test_without_hub_and_folder_one_error_has_the_cure(monkeypatch, tmp_path):
    pytest.importorskip("datasets")
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path)
    monkeypatch.setattr(sources, "reachable", lambda url: False)
    monkeypatch.setattr(sources.constants, "HF_HUB_OFFLINE", False)
    with pytest.raises(MissingDataError) as caught:
        questions.load("gpqa")
    said = str(caught.value)
    assert "the hub was not reached" in said
    assert "Idavidrein/gpqa (configuration gpqa_diamond, split train)" in said
    assert "DIR/gpqa/gpqa_diamond.csv and add --data-dir DIR" in said


def test_a_refusal_by_the_hub_is_passed_on_with_the_terms(monkeypatch):
    datasets = pytest.importorskip("datasets")

    def gated(*arguments, **options):
        raise datasets.exceptions.DatasetNotFoundError("a gated dataset.\nYou must be authenticated.")

    monkeypatch.setattr(datasets, "load_dataset", gated)
    monkeypatch.setattr(sources, "reachable", lambda url: True)
    with pytest.raises(MissingDataError, match="You must be authenticated.*accept its terms"):
        questions.load("gpqa")


def test_hub_rows_become_the_same_samples_as_the_file(monkeypatch, tmp_path):
    datasets = pytest.importorskip("datasets")
    asked = []

    def given(*arguments, **options):
        asked.append((arguments, options))
        return datasets.Dataset.from_list([ROW])

    monkeypatch.setattr(datasets, "load_dataset", given)
    monkeypatch.setattr(sources, "reachable", lambda url: True)
    folder = tmp_path / "gsm8k"
    folder.mkdir()
    (folder / "test.jsonl").write_text(json.dumps(ROW))
    assert questions.load("gsm8k").sha256 == questions.load("gsm8k", tmp_path).sha256
    assert asked == [(("openai/gsm8k", "main"), {"split": "test"})]


def test_the_cache_of_datasets_is_enough_offline(monkeypatch, tmp_path):
    datasets = pytest.importorskip("datasets")
    row = {"problem": "Solve.", "answer": "1", "subject": "Algebra", "unique_id": "test/1", "level": 2}
    folder = tmp_path / "HuggingFaceH4___math-500" / "default" / "0.0.0" / "1234"
    folder.mkdir(parents=True)
    table = datasets.Dataset.from_list([row])
    with datasets.arrow_writer.ArrowWriter(features=table.features, path=str(folder / "math-500-test.arrow")) as writer:
        writer.write(row)
        examples, size = writer.finalize()
    split = datasets.SplitInfo("test", num_bytes=size, num_examples=examples, dataset_name="math-500")
    info = datasets.DatasetInfo(
        features=table.features, builder_name="json", dataset_name="math-500", config_name="default", version="0.0.0"
    )
    info.splits = datasets.SplitDict({"test": split}, dataset_name="math-500")
    info.write_to_directory(str(folder))
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path)
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    monkeypatch.setattr(sources.constants, "HF_HUB_OFFLINE", True)
    loaded = questions.load("math-500")
    assert [sample.id for sample in loaded.samples] == ["test/1"]
    assert loaded.samples[0].reference == {"answer": "1"}


def test_a_missing_library_is_named_with_its_install_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingDataError, match="pip install .datasets"):
        list(HUB.rows())


def test_a_web_file_is_downloaded_once_and_checked(monkeypatch, tmp_path):
    data = json.dumps({"question": "a"}).encode()
    served = tmp_path / "served.jsonl"
    served.write_bytes(data)
    monkeypatch.setattr(sources.constants, "HF_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(sources.constants, "HF_HUB_OFFLINE", False)
    web = Web(served.as_uri(), hashlib.sha256(data).hexdigest(), sample)
    assert list(web.rows()) == [{"question": "a"}]
    served.unlink()
    assert list(web.rows()) == [{"question": "a"}]
    with pytest.raises(MissingDataError, match="was not reached"):
        list(Web(served.as_uri(), "0" * 64, sample).rows())
    served.write_bytes(b"{}")
    with pytest.raises(MissingDataError, match="sha256 differs"):
        list(Web(served.as_uri(), "0" * 64, sample).rows())


def test_a_refusal_is_an_answer_and_silence_is_none(monkeypatch):
    def refuse(request, timeout):
        raise urllib.error.HTTPError(request.full_url, 401, "no", {}, None)

    def silent(request, timeout):
        raise urllib.error.URLError("no route")

    monkeypatch.setattr(sources.urllib.request, "urlopen", refuse)
    assert sources.reachable("https://example.org")
    monkeypatch.setattr(sources.urllib.request, "urlopen", silent)
    assert not sources.reachable("https://example.org")


def test_an_unknown_benchmark_suggests_the_nearest():
    for given, meant in (("mtbench", "mt-bench"), ("humaneval", "human-eval"), ("math500", "math-500")):
        with pytest.raises(ConfigError, match=f"did you mean '{meant}'"):
            questions.load_all(f"alpaca,{given}")
    with pytest.raises(ConfigError, match="no benchmark was named"):
        questions.load_all(" , ")
