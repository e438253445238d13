"""Plain decoding: the tree is its root."""

from __future__ import annotations

import torch
from torch import Tensor

from specdecodes.engine.runner import Scores
from specdecodes.sampling import Sampler
from specdecodes.tree import TokenTree
from specdecodes.verify import Verdict


class NoDrafter:
    """Proposes nothing, so each round emits the target's one token."""

    levels, middles = 0, ()

    def __init__(self, capacity: int, device: torch.device) -> None:
        self._capacity, self._device = capacity, device

    def begin(self, prompt: Tensor, kept: int, sampler: Sampler, scores: Scores) -> None:
        pass

    def propose(self, root: int) -> TokenTree:
        return TokenTree.of(root, self._capacity, self._device)

    def accept(self, tree: TokenTree, verdict: Verdict, scores: Scores) -> None:
        pass
