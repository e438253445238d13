"""Kernels that any pipeline runs on: built side by side, and told where they are missing."""

from __future__ import annotations

from dataclasses import replace
from threading import Barrier

import pytest
import torch

from specdecodes.config import Memory
from specdecodes.errors import BudgetError
from specdecodes.methods import kernels, plan_for
from specdecodes.methods.kernels import STOOD_IN, build_kernels, shortages
from specdecodes.native import Found
from tests.test_lossless import pipeline_for

CPU = torch.device("cpu")
NO_COMPILER = "no C++ compiler was found: install g++, or point CXX to one"


@pytest.fixture
def without(monkeypatch):
    """`without(missing)`: only those kernels are missing, by the text that says why."""

    def forget(missing):
        monkeypatch.setattr(kernels, "load_if_built", lambda source: Found(None, missing.get(source, "")))

    return forget


def test_they_are_built_side_by_side(monkeypatch):
    """Each waits until all the others are being built too."""
    together = Barrier(len(STOOD_IN) + 1, timeout=30)

    def build(source=None):
        together.wait()
        return Found(None)

    monkeypatch.setattr(kernels, "usable_cores", lambda: together.parties)
    monkeypatch.setattr(kernels, "load_if_built", build)
    monkeypatch.setattr(kernels.w4a8, "support", build)
    build_kernels(CPU)
    build_kernels(torch.device("meta"))  # which waits for nobody


def test_what_is_missing_is_told_once(without, tiny_checkpoint):
    without(dict.fromkeys(STOOD_IN, NO_COMPILER))
    ((name, run, speed),) = shortages(CPU)
    assert (name, speed) == ("kernels", "slower")
    assert run.startswith("torch's own for attention") and run.endswith(NO_COMPILER) and "half as fast" in run
    pipeline = pipeline_for("vanilla", tiny_checkpoint("llama"), None, exact=True)
    assert (name, run, speed) in plan_for(pipeline).rows()
    # It takes more memory too.
    with pytest.raises(BudgetError, match="cannot work.*torch.s own for attention.*install g"):
        plan_for(replace(pipeline, memory=Memory(device="100kB")))


def test_of_each_reason_there_is_a_line(without):
    assert not shortages(CPU)
    attention, linear, layer, _ = STOOD_IN
    without({attention: "a fault", layer: "another"})
    first, second = shortages(CPU)
    assert first[1].endswith(": a fault") and second[1] == "torch's own for layers as one call: another"
