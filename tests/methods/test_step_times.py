"""Steps are timed on fewer layers, and scaled to the model's own size."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from specdecodes.methods import step_times
from specdecodes.methods.step_times import Timed, time_level, time_pass
from specdecodes.models.loading import open_checkpoint
from specdecodes.quant import Execution
from specdecodes.quant.spec import find_scheme


@pytest.fixture
def model(tiny_checkpoint, tmp_path, monkeypatch):
    monkeypatch.setenv("SPECDECODES_CACHE", str(tmp_path))
    spec = open_checkpoint(str(tiny_checkpoint("llama"))).spec
    return Timed(spec, torch.float32, 2**20, torch.device("cpu"))


def test_a_step_is_timed_once_and_remembered(model, monkeypatch):
    first = time_pass(model, 8, True)
    assert first.layer > 0 and first.rest > 0
    monkeypatch.setattr(step_times, "_seconds", None)
    assert time_pass(model, 8, True) == first
    with pytest.raises(TypeError):
        time_pass(model, 9, True)


def test_substitutes_are_timed_on_their_kernel(model, monkeypatch):
    scheme, execution, made = find_scheme("hqq4"), Execution(rows=3), []
    monkeypatch.setattr(step_times, "specimen", lambda *options: made.append(options[2:]) or torch.nn.Identity())
    with pytest.raises(RuntimeError):  # an identity does not fit the shapes: it was called
        time_level(replace(model, scheme=scheme, execution=execution), 3)
    assert set(made) == {(scheme, execution)}
    monkeypatch.undo()


def test_a_large_layer_is_timed_in_part_and_scaled(model, monkeypatch):
    """Every timed thing takes a second: 1 for the rest, 1 + layers for all, 1 for the feed-forward parts."""
    spec = replace(model.spec, intermediate_size=1024, vocab_size=1024, layers=4)
    monkeypatch.setattr(step_times, "_WIDEST", 512 * spec.hidden_size)
    seconds = iter((1.0, 5.0, 8.0))
    monkeypatch.setattr(step_times, "_seconds", lambda work, device: next(seconds))
    step = time_pass(replace(model, spec=spec), 8, False)
    assert step.rest == 2.0  # half of the head was timed
    copies = step_times._copies(model, replace(spec, intermediate_size=512))
    assert step.layer == pytest.approx(4.0 / copies + 8.0 / copies)


def test_the_first_run_does_not_count_and_one_more_is_enough(monkeypatch):
    clock = iter((0.0, 9.0, 10.0, 13.0))  # a first run of 9 s, then one of 3 s
    monkeypatch.setattr(step_times.time, "perf_counter", lambda: next(clock))
    assert step_times._seconds(lambda: None, torch.device("cpu")) == 3.0
