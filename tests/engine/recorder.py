"""CUDA graphs without CUDA: what a step does is noted operation by operation, and done again with the same tensors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class SimulatedGraph:
    """As a real one it has the tensors of its recording, at their addresses, and nothing else: numbers that the host
    read, and shapes, are what they were then. What was written while it was recorded is undone."""

    def __init__(self) -> None:
        self.operations: list[tuple[Any, tuple[Any, ...], dict[str, Any], Any]] = []
        self.replays = 0

    def pool(self) -> None:
        return None

    def replay(self) -> None:
        self.replays += 1
        for operation, args, kwargs, noted in self.operations:
            for old, new in zip(tree_leaves(noted), tree_leaves(operation(*args, **kwargs)), strict=True):
                if isinstance(old, torch.Tensor) and old.data_ptr() != new.data_ptr():
                    old.copy_(new)


class _Noting(TorchDispatchMode):
    def __init__(self, graph: SimulatedGraph) -> None:
        super().__init__()
        self.graph = graph
        self.before: list[tuple[torch.Tensor, torch.Tensor]] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        given = {argument.name: value for argument, value in zip(func._schema.arguments, args, strict=False)} | kwargs
        for argument in func._schema.arguments:
            if argument.alias_info is not None and argument.alias_info.is_write and argument.name in given:
                self.before.append((given[argument.name], given[argument.name].clone()))
        out = func(*args, **kwargs)
        self.graph.operations.append((func, args, kwargs, out))
        return out


class SimulatedRecorder:
    """Stands in for `graphs.capture` on the CPU; `graphs` are those made. With `fails`, the n-th recording and all
    after it are refused."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, fails: int | None = None) -> None:
        self.graphs: list[SimulatedGraph] = []
        self.asked = 0
        self._fails = fails
        monkeypatch.setattr("specdecodes.engine.graphs.can_record", lambda device: True)
        monkeypatch.setattr("specdecodes.engine.graphs.capture", self.capture)

    def capture(self, step: Callable[[], None], device: torch.device, sharing: SimulatedGraph | None) -> SimulatedGraph:
        assert sharing is None or sharing is self.graphs[0] or sharing in self.graphs
        self.asked += 1
        if self._fails is not None and self.asked >= self._fails:
            raise RuntimeError("operation not permitted when stream is capturing\nand more")
        graph = SimulatedGraph()
        with _Noting(graph) as noting:
            step()
        for tensor, before in reversed(noting.before):
            tensor.copy_(before)
        self.graphs.append(graph)
        return graph
