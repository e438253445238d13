"""What tests of streams share: a pass that is checked bit by bit, and reads that something happens before."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest
import torch

from specdecodes.offload.storage.store import ALIGNMENT
from specdecodes.offload.streaming.stream import LayerStream
from tests.offload.conftest import Layers

BLOCK = 4 * ALIGNMENT


def same(tensors: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> bool:
    return tensors.keys() == expected.keys() and all(
        tensors[name].dtype == value.dtype and tensors[name].equal(value) for name, value in expected.items()
    )


def check_pass(stream: LayerStream, layers: Layers) -> None:
    for index, expected in enumerate(layers):
        with stream.layer(index) as tensors:
            assert same(tensors, expected), index


def intercept(monkeypatch: pytest.MonkeyPatch, before: Callable[[], None]) -> None:
    """Calls `before` ahead of every read."""
    real = os.preadv

    def read(file: int, buffers: list[memoryview], offset: int) -> int:
        before()
        return real(file, buffers, offset)

    monkeypatch.setattr(os, "preadv", read)
