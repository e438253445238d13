"""What tests of streams share: a pass that is checked bit by bit, and reads that something happens before."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

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


@contextmanager
def interrupts() -> Iterator[Callable[[float], None]]:
    """What sends a Ctrl-C after so many seconds."""

    def interrupt(signal_number: int, frame: object) -> None:
        raise KeyboardInterrupt

    def begin(seconds: float) -> None:
        signal.setitimer(signal.ITIMER_REAL, seconds)

    previous = signal.signal(signal.SIGALRM, interrupt)
    try:
        yield begin
    finally:
        signal.signal(signal.SIGALRM, previous)
