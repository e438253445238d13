"""Compiled steps fail loudly."""

from __future__ import annotations

import os

import pytest
import torch
from torch._inductor.runtime.cache_dir_utils import default_cache_dir

from specdecodes.engine import compile as module
from specdecodes.errors import CompileError
from specdecodes.folders import cache_folder


def test_a_step_that_cannot_be_built_says_so():
    def untraceable(x):
        torch._dynamo.graph_break()
        return x + 1

    step = module._timed(torch.compile(untraceable, fullgraph=True, backend="eager"), module.CompileLog())
    with pytest.raises(CompileError, match="--eager"):
        step(torch.ones(3))


def test_no_compiler_is_named(monkeypatch):
    monkeypatch.setenv("CXX", "a-compiler-that-is-not-there")
    module.compiled_steps.cache_clear()
    if torch.cuda.is_available():
        pytest.skip("a CUDA device compiles without a C++ compiler")
    with pytest.raises(CompileError, match=r"C\+\+ compiler.*--eager"):
        module.compiled_steps()
    module.compiled_steps.cache_clear()


@pytest.mark.parametrize("named", ["", default_cache_dir(), "/chosen"])
def test_compiled_steps_are_kept_in_our_folder_or_the_user_s(named, monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", named)
    module.keep_compiled()
    kept = os.environ["TORCHINDUCTOR_CACHE_DIR"]
    assert kept == ("/chosen" if named == "/chosen" else str(cache_folder() / "inductor"))


def test_the_log_counts_graphs_and_seconds():
    log = module.CompileLog()
    step = module._timed(torch.compile(lambda x: x * 2, fullgraph=True, dynamic=False, backend="eager"), log)
    step(torch.ones(3))
    step(torch.ones(3))
    assert log.graphs == 1 and log.seconds > 0
    step(torch.ones(4))
    assert log.graphs == 2
