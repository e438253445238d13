"""What baselines of ours do without: layers fetched ahead, and layers that stay resident."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import Any
from unittest import mock

import torch

from specdecodes.config import Pipeline, override
from specdecodes.errors import BudgetError
from specdecodes.methods import plan_for
from specdecodes.offload.streaming.slots import Slots, State
from specdecodes.offload.streaming.stream import LayerStream
from specdecodes.offload.streaming.stream_cuda import CudaLayerStream


class OneByOne(Slots):
    """Begins a layer only when nothing else is read, held or waiting."""

    def _begin_turn(self) -> None:
        if all(slot.state is State.FREE for slot in self):
            super()._begin_turn()


class Blocking(LayerStream):
    """Reads a layer when it is asked for: no prefetch."""

    def __init__(self, *layers: Any, **options: Any) -> None:
        super().__init__(*layers, **options)
        self._slots = OneByOne(len(self._slots), self._reads()[1])


class BlockingCuda(CudaLayerStream):
    """And on a GPU only when the kernels of the layer before have ended."""

    def __init__(self, *layers: Any, **options: Any) -> None:
        super().__init__(*layers, **options)
        self._slots = OneByOne(len(self._slots), self._reads()[1])

    def _end_use(self, slot: Any) -> None:
        torch.cuda.synchronize(self._device)
        super()._end_use(slot)


@contextlib.contextmanager
def blocking_streams() -> Iterator[None]:
    """Generators that are built meanwhile do not prefetch."""
    with contextlib.ExitStack() as until_end:
        for name, stream in (("LayerStream", Blocking), ("CudaLayerStream", BlockingCuda)):
            until_end.enter_context(mock.patch(f"specdecodes.methods.weights.streams.{name}", stream))
        yield


def without_resident_layers(pipeline: Pipeline) -> Pipeline:
    """`pipeline` with the least budget that works, or its own if that is less, for the plan to refuse: every layer
    streams."""
    try:
        plan_for(override(pipeline, "memory.device", 1))
    except BudgetError as refused:
        least = min(1 + refused.shortfall_bytes, pipeline.memory.device_bytes or sys.maxsize)
        return override(pipeline, "memory.device", least)
    raise AssertionError("no model runs in one byte")
