"""The MT-Bench command means by its flags what they mean elsewhere, and writes what run-benchmark writes."""

from __future__ import annotations

import json

import pytest

from specdecodes.benchmark import run_mtbench
from specdecodes.benchmark.results.reading import find_results
from specdecodes.benchmark.run_mtbench import main, parser, pipeline_of
from specdecodes.errors import ConfigError
from specdecodes.methods import plan_for
from tests.commands import exit_code, write_questions
from tests.heads import head_beside


def pipeline(*words):
    return pipeline_of(parser().parse_args(words))


def test_flags_mean_what_they_mean_elsewhere():
    plain = pipeline("-llm", "org/model")
    assert (plain.method, plain.target.dtype, plain.sampling.temperature) == ("vanilla", "fp16", 0.0)
    sampled = pipeline("--dtype", "bfloat16", "-llm", "org/model", "--do-sample", "--temp", "0.7", "--mode", "subspec")
    assert (sampled.method, sampled.target.dtype, sampled.sampling.temperature) == ("subspec_sd", "bf16", 0.7)
    words = ("--max-depth", "7", "--topk-len", "5", "--max-verify-tokens", "60")
    classic = pipeline("-llm", "org/model", "-ssm", "org/draft", "--mode", "sd-classic", *words)
    assert (classic.method, classic.draft.model) == ("classic_sd", "org/draft")
    assert (classic.tree.depth, classic.tree.width, classic.tree.nodes) == (7, 5, 61)  # the root is verified too


def test_the_demo_model_brings_its_drafts_and_others_name_theirs():
    demo = pipeline()
    assert demo.target.model.endswith("assets/demo")
    assert (demo.memory.device, demo.sampling.repetition_penalty) == ("31.5MiB", 1.2)
    other = pipeline("-llm", "org/model", "--device-memory", "8GiB")
    assert (other.memory.device, other.sampling.repetition_penalty) == ("8GiB", 1.0)
    assert pipeline("--mode", "sd-eagle").draft.model.endswith("assets/demo-eagle")
    hierarchy = pipeline("--mode", "sd-hierspec")
    assert hierarchy.middle.model.endswith("assets/demo-draft") and hierarchy.draft.model is None
    with pytest.raises(ConfigError, match="-ssm"):
        pipeline("-llm", "org/model", "--mode", "sd-eagle")
    with pytest.raises(ConfigError, match="no second model"):
        pipeline("-llm", "org/model", "-ssm", "org/draft", "--mode", "subspec")


@pytest.mark.usefixtures("untimed")
@pytest.mark.parametrize("mode", run_mtbench.METHODS_OF)
def test_the_demo_works_in_every_mode_and_dtype_and_streams(mode):
    for dtype in ("auto", "float16", "float32"):
        placement = plan_for(pipeline("--mode", mode, "--dtype", dtype))
        fits = mode == "naive" and dtype == "float16"
        assert placement.streamed or fits or mode not in ("naive", "sd-eagle")


def test_it_answers_logs_and_goes_on_from_what_is_there(tiny_checkpoint, tmp_path, monkeypatch, capsys):
    write_questions(tmp_path, ("w5 w8", "w7"), ("w5 w9", "w7"))
    words = ["-llm", str(tiny_checkpoint()), "--dtype", "float32", "--max-new-tokens", "6", "--eager"]
    words += ["--data-dir", str(tmp_path), "--out-dir", str(tmp_path / "out"), "--log-dir", str(tmp_path / "logs")]
    monkeypatch.setenv("LOGLEVEL", "warning")
    for _ in range(2):
        assert exit_code(main, words) == 0
        monkeypatch.setattr(run_mtbench, "build", None)  # the second time nothing is loaded
    (results,) = find_results(tmp_path / "out").values()
    assert len(results.done) == 2
    (log, *_) = sorted((tmp_path / "logs").glob("*/0.jsonl"))
    queries = [json.loads(line) for line in log.read_text().splitlines()]
    assert len(queries) == 4 and {query["query"] for query in queries} == {"w5 w8", "w5 w9", "w7"}
    assert all(query["n_tokens"] <= 6 and query["tput"] > 0 for query in queries)
    assert "INFO" not in capsys.readouterr().err
    monkeypatch.setenv("LOGLEVEL", "loud")
    assert exit_code(main, words) == 2 and "LOGLEVEL is 'LOUD'" in capsys.readouterr().err


@pytest.mark.usefixtures("untimed")
@pytest.mark.parametrize("mode", ["sd-classic", "sd-eagle", "sd-hierspec", "subspec"])
def test_every_mode_answers_sampled_questions(mode, tiny_checkpoint, tmp_path):
    write_questions(tmp_path, ("w5 w8", "w7"))
    target = tiny_checkpoint()
    words = ["-llm", str(target), "--mode", mode, "--dtype", "float32", "--max-new-tokens", "6", "--eager"]
    words += ["--do-sample", "--temp", "1.0", "--data-dir", str(tmp_path), "--out-dir", str(tmp_path / "out")]
    drafts = {"sd-classic": target, "sd-eagle": head_beside(target, "eagle"), "sd-hierspec": target}
    assert exit_code(main, [*words, *(("-ssm", str(drafts[mode])) if mode in drafts else ())]) == 0
    summary = json.loads((tmp_path / "out" / "mt-bench" / "summary.json").read_text())
    assert (summary["method"], summary["samples"]) == (run_mtbench.METHODS_OF[mode], 1) and summary["rounds"] > 0
