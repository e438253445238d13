"""A run's log: what a resumed run will write again is dropped, and TensorBoard is told every value."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest

from specdecodes.train.curve import Curve, read_curve

TENSORBOARD = "torch.utils.tensorboard"


class Writer:
    """Notes what it is told; `seen` is what a reader of the files would find."""

    def __init__(self, folder, purge_step):
        self.folder, self.purge_step, self.told, self.seen = folder, purge_step, [], []

    def add_scalar(self, tag, value, step):
        self.told.append((tag, value, step))

    def flush(self):
        self.seen = list(self.told)


@pytest.fixture
def writers(monkeypatch):
    made = []
    writer = SimpleNamespace(SummaryWriter=lambda *a, **k: made.append(Writer(*a, **k)) or made[-1])
    monkeypatch.setitem(sys.modules, TENSORBOARD, writer)
    return made


def test_lines_behind_the_state_that_is_gone_on_from_are_dropped(tmp_path, writers):
    curve = Curve(tmp_path, 0, print)
    for step in (1, 2, 3):
        curve.add(step, loss=1 / step)
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"step": 4, "lo')  # cut short
    Curve(tmp_path, 2, print).add(3, loss=0.25)
    lines = read_curve(tmp_path / "log.jsonl")
    assert [(line["step"], line["loss"]) for line in lines] == [(1, 1), (2, 0.5), (3, 0.25)]
    assert [writer.purge_step for writer in writers] == [1, 3]


def test_tensorboard_is_told_every_value_and_lists_by_place(tmp_path, writers):
    Curve(tmp_path, 0, print).add(7, loss=1.5, acceptance=[0.5, 0.25])
    (writer,) = writers
    assert writer.seen == [("loss", 1.5, 7), ("acceptance/1", 0.5, 7), ("acceptance/2", 0.25, 7)]
    assert writer.folder == str(tmp_path / "tensorboard")


def test_without_it_the_run_says_so_and_goes_on(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, TENSORBOARD, None)
    said = []
    Curve(tmp_path, 0, said.append).add(1, loss=2.0)
    assert "pip install tensorboard" in said[0] and read_curve(tmp_path / "log.jsonl") == [{"step": 1, "loss": 2.0}]
