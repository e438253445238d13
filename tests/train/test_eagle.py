"""A training run: it learns, goes on bit for bit where it was stopped, ends by itself, and keeps no broken head."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from specdecodes.errors import ConfigError, NumericsError
from specdecodes.models.eagle_files import open_head
from specdecodes.models.loading import open_checkpoint
from specdecodes.train.curve import read_curve
from specdecodes.train.data_gen.allocation import Allocation, run
from specdecodes.train.eagle import train
from specdecodes.train.examples import Split, epoch_batches
from specdecodes.train.training import HeadRun, HeadTraining

pytest.importorskip("accelerate")


def silent(text: str) -> None:
    pass


@pytest.fixture(scope="module", params=("eagle", "eagle3"))
def plan(request, tiny_checkpoint, tmp_path_factory):
    """A run on 14 texts of a tiny model; three epochs of three batches."""
    folder, target = tmp_path_factory.mktemp(request.param), str(tiny_checkpoint())
    dice = torch.Generator().manual_seed(0)
    texts = [" ".join(f"w{int(w)}" for w in torch.randint(3, 97, (20 + n,), generator=dice)) for n in range(14)]
    (folder / "texts.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    run(Allocation(folder / "data", str(folder / "texts.jsonl"), target, architecture=request.param), silent)
    return HeadTraining(
        *(folder / "data", target, folder / "head", folder / "run"),
        **{"epochs": 3, "batch_size": 4, "rate": 3e-3, "steps": 2, "noise": 0.1, "held_out": 0.15, "depth": 3},
        **{"log_every": 1, "cpu": True, "patience": 9, "draft_vocab_size": 61},
    )


def elsewhere(plan, folder, **fields):
    return replace(plan, out=folder / "head", run=folder / "run", **fields)


def weights(folder):
    return (folder / "model.safetensors").read_bytes()


def test_it_learns_and_writes_a_head_that_can_be_served(plan, tmp_path):
    plan = elsewhere(plan, tmp_path, epochs=10)
    report = train(plan, silent)
    losses = [line["loss"] for line in read_curve(plan.run / "log.jsonl") if "loss" in line]
    assert len(losses) == report.steps == 30 and losses[-1] < 0.9 * losses[0]
    files = open_head(str(plan.out), open_checkpoint(plan.target).spec)
    assert set(files.load()) == set(files.spec.tensors())
    told = json.loads((plan.out / "training.json").read_text())
    assert told["acceptance"] == list(report.acceptance) and len(report.untrained) == 3
    assert str(plan.data.parent) not in json.dumps(told) and told["data"]["conversations"] == 14


def test_a_stopped_run_goes_on_with_the_same_losses_bit_for_bit(plan, tmp_path, monkeypatch):
    whole = elsewhere(plan, tmp_path / "whole")
    report = train(whole, silent)
    cut = elsewhere(plan, tmp_path / "cut")
    step_of = HeadRun._step

    def stop(self, step, batch):
        if step == 5:  # two steps behind the last checkpoint
            raise KeyboardInterrupt
        return step_of(self, step, batch)

    monkeypatch.setattr(HeadRun, "_step", stop)
    with pytest.raises(KeyboardInterrupt):
        train(cut, silent)
    monkeypatch.undo()
    torch.manual_seed(99)  # whatever the process did before
    told = []
    again = train(cut, told.append)
    assert any("going on from step 3" in line for line in told)
    assert read_curve(whole.run / "log.jsonl") == read_curve(cut.run / "log.jsonl")
    assert weights(whole.out) == weights(cut.out)
    assert replace(again, seconds=0) == replace(report, seconds=0)
    with pytest.raises(ConfigError, match="rate was 0.003 and is 0.1"):
        train(replace(cut, rate=0.1), silent)


def test_nan_stops_with_the_step_and_leaves_the_last_good_state(plan, tmp_path, monkeypatch):
    plan = elsewhere(plan, tmp_path)
    step_of = HeadRun._step

    def poisoned(self, step, batch):
        if step == 5:
            batch.last[0, 4] = float("nan")
            batch.inputs[0, 3] = float("nan")
        return step_of(self, step, batch)

    monkeypatch.setattr(HeadRun, "_step", poisoned)
    with pytest.raises(NumericsError, match="nan at step 5.*state-00000003"):
        train(plan, silent)
    monkeypatch.undo()
    assert train(plan, silent).steps == 9  # goes on from there


def test_it_ends_when_the_held_out_acceptance_no_longer_rises(plan, tmp_path):
    report = train(elsewhere(plan, tmp_path, epochs=50, patience=2, rate=1e-9), silent)
    assert report.steps == 6 and report.best_step == 0


def test_conversations_are_held_out_evenly_and_batches_are_a_function_of_the_seed():
    split = Split.of(100, 0.05, 64)
    assert len(split.held) == 5 and set(split.held).isdisjoint(split.learn)
    assert len(split.held) + len(split.learn) == 100
    lengths = [7 * n % 31 for n in range(100)]
    first = epoch_batches(split.learn, lengths, 8, 3, 0)
    assert sorted(sum(first, [])) == list(split.learn)
    assert first == epoch_batches(split.learn, lengths, 8, 3, 0) != epoch_batches(split.learn, lengths, 8, 3, 1)
