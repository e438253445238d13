"""Flags and --set end in one pipeline; flags mean what they say."""

from __future__ import annotations

from pathlib import Path

import pytest

from specdecodes import pipelines
from specdecodes.cli.options import resolve
from specdecodes.errors import ConfigError


def test_without_words_a_clone_means_its_demo():
    assert resolve() == pipelines.load(pipelines.DEMO)


def test_a_model_alone_means_subspec_on_it_with_all_memory():
    pipeline = resolve(model="some/model")
    assert (pipeline.method, pipeline.target.model, pipeline.memory.device) == ("subspec_sd", "some/model", None)


def test_two_models_mean_classic_drafting():
    pipeline = resolve(model="large", draft_model="small")
    assert (pipeline.method, pipeline.target.model, pipeline.draft.model) == ("classic_sd", "large", "small")


def test_every_flag_reaches_its_setting():
    pipeline = resolve(
        pipeline="run.exp_offloading.classic_sd_demo",
        model="large",
        draft_model="small",
        dtype="fp32",
        device_memory="4GiB",
        host_memory="8GiB",
        exact=False,
        seed=7,
        temp=0.5,
        max_tokens=9,
        max_length=99,
        compile=False,
        settings=["tree.depth=3", "warmup=0"],
    )
    assert (pipeline.target.model, pipeline.target.dtype, pipeline.draft.model) == ("large", "fp32", "small")
    assert (pipeline.memory.device, pipeline.memory.host) == ("4GiB", "8GiB")
    assert (pipeline.exact, pipeline.compile, pipeline.seed, pipeline.sampling.seed) == (False, False, 7, 7)
    assert (pipeline.sampling.temperature, pipeline.sampling.max_tokens, pipeline.max_length) == (0.5, 9, 99)
    assert (pipeline.tree.depth, pipeline.tree.width, pipeline.warmup) == (3, 4, 0)


def test_outside_a_clone_a_model_must_be_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(pipelines, "clone_root", lambda: None)
    with pytest.raises(ConfigError, match="--model"):
        resolve()
    assert pipelines.shipped() == []


def test_a_path_with_an_equals_sign_is_kept_whole(tmp_path: Path):
    assert resolve(model=str(tmp_path / "a=b")).target.model == str(tmp_path / "a=b")
