"""Steps are timed on fewer layers, and scaled to the model's own size."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from specdecodes.methods.measured import step_times
from specdecodes.methods.measured.step_times import Timed, time_level, time_pass
from specdecodes.models.loading import open_checkpoint
from specdecodes.quant import Execution, Rules, typical
from specdecodes.sampling import SamplingParams


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


def test_every_draft_that_is_timed_has_all_its_levels(model, monkeypatch):
    """And a level is a share of that."""
    ran, drafts, real = [], [], step_times.LevelGrower.propose

    def propose(grower, *given):
        tree = real(grower, *given)
        ran.append(grower.levels)
        drafts.append(grower)
        return tree

    monkeypatch.setattr(step_times.LevelGrower, "propose", propose)
    monkeypatch.setattr(step_times, "_seconds", lambda work, device: [work() for _ in range(3)] and 4.0)
    step = time_level(model, 2, SamplingParams())
    assert ran == [step_times.LEVELS] * 6 and len(set(drafts)) == 2
    assert step.rest == 4.0 / step_times.LEVELS


def test_substitutes_are_timed_on_their_kernel(model, monkeypatch):
    rules, execution, made = Rules.parse("hqq4+v_proj=hqq8:g32+down_proj=none"), Execution(rows=3), []
    monkeypatch.setattr(step_times, "specimen", lambda *options: made.append(options) or torch.nn.Identity())
    with pytest.raises(RuntimeError):  # an identity does not fit the shapes: it was called
        time_level(
            replace(model, rules=typical(rules, model.spec.linears(), 4), execution=execution), 3, SamplingParams()
        )
    four, eight = rules.rules[0][1], rules.rules[1][1]
    once = [
        (64, 64, four),
        (32, 64, four),
        (64, 64, four),
        (256, 64, four),
        (32, 64, eight),
    ]  # of q, k, o, gate and up, v
    assert set(made) == {(*one, execution) for one in once}
    assert len(made) % len(once) == 0, "gate and up are one linear, q and k are not: v has another scheme"


def test_linears_that_no_group_divides_are_timed_as_they_are(model):
    spec = replace(model.spec, intermediate_size=172)
    rules = typical(Rules.parse("hqq4:g32+down_proj=none"), spec.linears(), 4)
    odd = replace(model, spec=spec, rules=rules, execution=Execution(rows=2))
    assert time_level(odd, 2, SamplingParams()).layer > 0 and time_pass(odd, 3, False).layer > 0


def test_a_typical_layer_is_like_most_of_them():
    paths = ("mlp.up_proj", "mlp.down_proj")
    rules = typical(Rules.parse("hqq4+layers.[01]=none+layers.2.mlp.up_proj=hqq8"), paths, 6)
    assert [str(rules.scheme_of(path)) for path in paths] == ["hqq4", "hqq4"]
    assert not typical(Rules.parse("none+layers.0=hqq4"), paths, 6)


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
