"""The next level of a tree: the best children of all that a draft saw in the last one.

On a CPU one native call (next_level.cpp), where a compiler is: a level of a small model takes a millisecond, and these
operations one by one a third of that.
"""

from __future__ import annotations

import ctypes
import functools
from pathlib import Path

from torch import Tensor
from torch.nn import functional as F

from specdecodes.drafters.offspring import Offspring
from specdecodes.drafters.pacing.trust import Trust
from specdecodes.native import load_if_built
from specdecodes.tree import TokenTree

SOURCE = Path(__file__).with_suffix(".cpp")


class _Grown(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("tokens", "parents", "depths", "scores", "ancestors")),
        *((name, ctypes.c_void_p) for name in ("child_tokens", "child_scores", "child_nodes")),
        *((name, ctypes.c_int64) for name in ("capacity", "children")),
    ]


class NextLevel:
    """Grows `tree` and its `offspring`, whose tensors never move, at the draft's `temperature`; chances are as `trust`
    corrects them, if there is one."""

    def __init__(self, tree: TokenTree, offspring: Offspring, temperature: float, trust: Trust | None) -> None:
        self._tree, self._offspring, self._temperature, self._trust = tree, offspring, temperature, trust
        self._native = _library() if tree.tokens.device.type == "cpu" else None
        # Held by those two as long as their addresses are here.
        arrays = tree.tokens, tree.parents, tree.depths, tree.scores, tree.ancestors, *offspring.arrays
        self._grown = _Grown(*(array.data_ptr() for array in arrays), tree.capacity, offspring.width)

    def grow(self, scores: Tensor, nodes: Tensor, reach: Tensor) -> None:
        """From `scores` [k, vocab] fp32 of the tokens after `nodes` [k], consecutive ones, which become the k new nodes
        behind them. `reach` [] becomes how many of those an accepted path is expected to hold. No host sync."""
        if self._native is None:
            return self._by_torch(scores, nodes, reach)
        scores, curve = scores.contiguous(), None if self._trust is None else self._trust.curve.data_ptr()
        sizes = scores.shape[1], self._temperature, curve, nodes.data_ptr(), nodes.shape[0]
        reach.fill_(self._native.choose_level(scores.data_ptr(), *sizes, self._grown))

    def _by_torch(self, scores: Tensor, nodes: Tensor, reach: Tensor) -> None:
        tree, width = self._tree, nodes.shape[0]
        top = F.log_softmax(scores / self._temperature, dim=-1).topk(self._offspring.width)
        chances = top.values if self._trust is None else self._trust.correct(top.values)
        worth = tree.scores[nodes, None] + chances
        best = worth.flatten().topk(width)
        parents = nodes[best.indices // self._offspring.width]
        self._offspring.put(nodes, top.indices, worth, best.indices, nodes + width)
        nodes += width
        tree.put(nodes, parents, top.indices.flatten()[best.indices], best.values)
        reach.copy_(best.values.exp().sum())


@functools.cache
def _library() -> ctypes.CDLL | None:
    library = load_if_built(SOURCE).library
    if library is None:
        return None
    address, number = ctypes.c_void_p, ctypes.c_int64
    given = (address, number, ctypes.c_float, address, address, number, ctypes.POINTER(_Grown))
    library.choose_level.argtypes = list(given)
    library.choose_level.restype = ctypes.c_float
    return library
