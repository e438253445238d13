"""How often a round waits for a device to answer: each such read empties its queue."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from specdecodes import decode
from specdecodes.engine.graphs import Readback
from specdecodes.engine.stack import Stack
from specdecodes.methods import build
from specdecodes.sampling import PositionNoise
from tests.test_lossless import PROMPTS, SAMPLED, pipeline_for

ops = torch.ops.aten
WAITING = {ops._local_scalar_dense, ops.nonzero, ops.bincount, ops._unique2}
"""Numbers of the device, and shapes that hang on them."""


class HostReads(TorchDispatchMode):
    """Counts what a GPU would be waited for; numbers of the host that are copied there are such, too."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__()
        self.count, self._paused = 0, False
        self._count(monkeypatch, Tensor, "tolist")
        self._count(monkeypatch, torch, "tensor")
        monkeypatch.setattr(Tensor, "__setitem__", self._set_item(Tensor.__setitem__))

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        masks = func.overloadpacket in (ops.index, ops.index_put, ops.index_put_)
        if func.overloadpacket in WAITING or (masks and any(i is not None and i.dtype == torch.bool for i in args[1])):
            self._add()
        return func(*args, **(kwargs or {}))

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        before, self._paused = self._paused, True
        yield
        self._paused = before

    def within(self, monkeypatch: pytest.MonkeyPatch, owner: type, name: str) -> None:
        """Counts nothing there."""
        real = getattr(owner, name)

        def quiet(*args, **kwargs):
            with self.paused():
                return real(*args, **kwargs)

        monkeypatch.setattr(owner, name, quiet)

    def _count(self, monkeypatch: pytest.MonkeyPatch, owner: object, name: str) -> None:
        real = getattr(owner, name)
        monkeypatch.setattr(owner, name, lambda *args, **kwargs: (self._add(), real(*args, **kwargs))[1])

    def _add(self) -> None:
        self.count += not self._paused

    def _set_item(self, real):
        def set_item(tensor, index, value):
            if isinstance(index, list):
                self._add()
            return real(tensor, index, value)

        return set_item


@pytest.mark.parametrize(
    ("method", "adaptive", "most"),
    [("vanilla", False, 1), ("subspec_sd", False, 2), ("subspec_sd", True, 2), ("classic_sd", True, 4)],
)
@pytest.mark.usefixtures("untimed")
def test_a_round_asks_once_when_it_drafts_and_once_when_it_verifies(
    method, adaptive, most, tiny_checkpoint, monkeypatch
):
    """What passes and levels launch is tested apart not to ask; how a level went is told without waiting. A second
    model is also told the tokens that it missed, and asked whether it ran the last one accepted."""
    folder = tiny_checkpoint("llama")
    pipeline = pipeline_for(method, folder, folder, exact=False)
    pipeline = replace(pipeline, tree=replace(pipeline.tree, adaptive=adaptive))
    monkeypatch.setattr(decode, "reads_along", lambda device: True)
    monkeypatch.setattr(PositionNoise, "rows", PositionNoise._rows)  # as on a GPU
    with build(pipeline, progress=lambda text: None) as generator, HostReads(monkeypatch) as reads:
        for owner, name in ((Stack, "run"), (Stack, "once"), (Readback, "push"), (Readback, "pop")):
            reads.within(monkeypatch, owner, name)
        params = replace(SAMPLED, max_tokens=24, repetition_penalty=1.1)
        before, asked = 0, []
        for chunk in generator.stream(PROMPTS[0], params):
            if chunk.round is not None:
                asked.append(reads.count - before)
            before = reads.count
    assert asked and max(asked) == most
