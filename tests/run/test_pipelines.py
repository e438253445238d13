"""Every pipeline module is loaded; what they share comes from one place."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from specdecodes import pipelines
from specdecodes.config import override
from specdecodes.errors import ConfigError
from tests.heads import write_head

ROOT = Path(__file__).resolve().parents[2]
METHODS = ("vanilla", "ngram_sd", "classic_sd", "subspec_sd")
SHARED = {f"run.exp_shared.{name}" for name in ("share_sd_demo", "share_sd_llama2_7b", "qspec_demo", "qspec_llama_8b")}
MODELS = ("demo", "llama_8b", "qwen_7b", "qwen_14b", "qwen_32b")
EAGLE_MODELS = ("demo", "llama_8b", "qwen_7b")  # those that have a head
FORMS = ("fp16", "w4a16", "w4a8_qqq", "w4a8_qqq_g128", "w4a8_qoq", "w4a8_qoq_g128", "w8a8")
SUBJECTS = (*(f"llama3_8b_{form}" for form in FORMS), "llama3_70b_w4a16", "demo")
QUANTIZED = {"baseline": "vanilla", "eagle": "eagle_sd", "spec": "classic_sd", "hierspec": "hierspec_sd"}


def test_all_published_experiments_are_there():
    offloading = {f"{method}_{model}" for method in (*METHODS, "subspec_sd_higgs") for model in MODELS}
    offloading |= {f"eagle_sd_{model}" for model in EAGLE_MODELS}
    assert {f"run.exp_offloading.{name}" for name in offloading} | SHARED <= set(pipelines.shipped())
    quantized = {f"run.exp_quantized.{method}_{subject}" for method in QUANTIZED for subject in SUBJECTS}
    assert quantized <= set(pipelines.shipped())


@pytest.mark.parametrize("name", pipelines.shipped())
def test_a_pipeline_is_what_its_name_says(name: str):
    pipeline = pipelines.load(name)
    folder, short = name.split(".")[1:]
    if folder == "exp_quantized":
        assert QUANTIZED[short.partition("_")[0]] == pipeline.method
    else:
        assert short.startswith(pipeline.method)
    drafted = pipeline.middle.method if pipeline.method == "hierspec_sd" else pipeline.method
    assert (pipeline.draft.model is not None) == (drafted in ("classic_sd", "eagle_sd"))
    assert (pipeline.middle.model is not None) == (pipeline.method == "hierspec_sd")
    assert pipeline.memory.device_bytes
    assert pipeline.target.dtype == "auto"
    assert pipeline.exact is None, "exact mode follows from streaming"


@pytest.mark.parametrize("model", MODELS)
def test_methods_are_compared_on_one_target_and_one_budget(model: str):
    methods = (*METHODS, "eagle_sd") if model in EAGLE_MODELS else METHODS
    rivals = [pipelines.load(f"run.exp_offloading.{method}_{model}") for method in methods]
    assert len({(p.target, p.memory, p.max_length, p.sampling, p.seed) for p in rivals}) == 1
    assert len({p.tree.nodes for p in rivals}) == 1, "exact mode computes every pass at this width"


@pytest.mark.parametrize("subject", SUBJECTS)
def test_methods_are_compared_on_one_quantized_target_and_one_budget(subject: str):
    rivals = [pipelines.load(f"run.exp_quantized.{method}_{subject}") for method in QUANTIZED]
    assert len({(p.target, p.memory, p.max_length, p.sampling, p.seed, p.warmup) for p in rivals}) == 1
    assert len({p.tree.nodes for p in rivals}) == 1


def test_published_settings_of_quantized_targets():
    eagle, small = (pipelines.load(f"run.exp_quantized.{kind}_llama3_8b_w4a8_qqq").tree for kind in ("eagle", "spec"))
    assert (eagle.width, eagle.depth, eagle.nodes) == (10, 6, 60) and (small.width, small.depth) == (1, 6)
    large = pipelines.load("run.exp_quantized.eagle_llama3_70b_w4a16")
    assert (large.tree.width, large.tree.depth, large.tree.nodes) == (10, 3, 24)
    assert large.draft.model == "yuhuili/EAGLE-LLaMA3-Instruct-70B"
    draft = pipelines.load("run.exp_quantized.spec_llama3_70b_w4a16").draft
    assert draft.model == pipelines.load("run.exp_quantized.baseline_llama3_8b_w4a16").target.model
    below = pipelines.load("run.exp_quantized.hierspec_llama3_70b_w4a16")
    assert (below.middle.model, below.middle.method, below.middle.min_draft_length) == (draft.model, "eagle_sd", 6)
    assert (below.middle.tree.width, below.middle.tree.depth, below.middle.tree.nodes) == (10, 3, 30)
    assert below.draft.model == "yuhuili/EAGLE-LLaMA3-Instruct-8B"


def test_published_settings():
    deep = pipelines.load("run.exp_offloading.subspec_sd_qwen_32b")
    assert (deep.tree.width, deep.tree.depth, deep.draft.temperature, deep.draft.spelled) == (6, 48, 0.2, "hqq4")
    assert (deep.max_length, deep.memory.device, deep.warmup) == (2048, "24GiB", 3)
    assert pipelines.load("run.exp_offloading.subspec_sd_higgs_qwen_32b") == replace(
        deep, draft=replace(deep.draft, quant="higgs4")
    )
    shared = pipelines.load("run.exp_shared.share_sd_llama2_7b")
    assert (shared.target.quant, shared.draft.quant) == ("hqq8:g128", "hqq4")
    classic = pipelines.load("run.exp_offloading.classic_sd_llama_8b")
    assert (classic.tree.width, classic.tree.depth, classic.draft.temperature) == (6, 32, 1.0)
    assert classic.draft.model == "meta-llama/Llama-3.2-1B-Instruct"
    head = pipelines.load("run.exp_offloading.eagle_sd_qwen_7b")
    assert (head.tree.width, head.tree.depth, head.draft.temperature) == (10, 6, 1.0)
    assert head.draft.model == "leptonai/EAGLE-Qwen2.5-7B-Instruct"


def test_the_demo_is_found_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    assert Path(pipelines.load(pipelines.DEMO).target.model) == ROOT / "assets" / "demo"


def test_a_pipeline_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    source = 'from specdecodes.config import Pipeline, Target\n\npipeline = Pipeline("vanilla", Target("mine"))\n'
    (tmp_path / "own_experiment.py").write_text(source)
    monkeypatch.chdir(tmp_path)
    assert pipelines.load("own_experiment").target.model == "mine"
    assert pipelines.load(str(tmp_path / "own_experiment.py")).target.model == "mine"


@pytest.mark.parametrize("name", ["run.exp_offloading.subspec_sd_dem", "subspec_sd_demo"])
def test_an_unknown_pipeline_is_refused_with_the_nearest(name: str):
    with pytest.raises(ConfigError, match="did you mean 'run.exp_offloading.subspec_sd_demo'"):
        pipelines.load(name)


@pytest.mark.parametrize("name", ["json", "no.such.module", ""])
def test_a_name_that_means_nothing_is_refused_with_the_list(name: str):
    with pytest.raises(ConfigError, match=r"unknown pipeline .*run\.exp_offloading\."):
        pipelines.load(name)


def test_a_module_without_a_pipeline_is_refused():
    with pytest.raises(ConfigError, match="no Pipeline called 'pipeline'"):
        pipelines.load("run.exp_offloading.families")


@pytest.mark.parametrize("method", QUANTIZED)
def test_a_quantized_demo_is_resident_within_its_budget(method: str, untimed: None):
    from specdecodes.methods import plan_for

    placement = plan_for(pipelines.load(f"run.exp_quantized.{method}_demo"))
    assert not placement.streamed
    assert sum(placement.device_bytes.values()) <= placement.budgets.device


@pytest.mark.parametrize("method", (*METHODS, "eagle_sd"))
def test_the_demo_streams_within_its_budget(method: str, tmp_path: Path):
    from specdecodes.methods import plan_for

    pipeline = pipelines.load(f"run.exp_offloading.{method}_demo")
    if method == "eagle_sd":  # with a head made here, of the size of a real one
        head = write_head(tmp_path / "head", Path(pipeline.target.model))
        pipeline = override(pipeline, "draft.model", str(head))
    placement = plan_for(pipeline)
    assert placement.streamed
    assert sum(placement.device_bytes.values()) <= placement.budgets.device
