"""Classic drafting: a second, smaller model with its own cache."""

from __future__ import annotations

import torch
from torch import Tensor

from specdecodes.drafters.level import LevelGrower
from specdecodes.engine.runner import ModelRunner, Scores
from specdecodes.sampling import Sampler
from specdecodes.tree import TokenTree
from specdecodes.verify import Verdict


class IndependentDrafter:
    """Its cache follows the target's: accepted nodes are kept from its own region, and what it never ran is run first
    thing in the next proposal."""

    middles = ()

    def __init__(self, runner: ModelRunner, grower: LevelGrower) -> None:
        self._runner, self._grower = runner, grower
        self._sampler: Sampler | None = None
        self._pending: list[int] = []

    @property
    def levels(self) -> int:
        return self._grower.levels

    def begin(self, prompt: Tensor, kept: int, sampler: Sampler, scores: Scores) -> None:
        cache = self._runner.cache
        cache.truncate(min(kept, cache.length))
        self._sampler, self._pending = sampler, prompt[cache.length :].tolist()
        self._catch_up()

    def propose(self, root: int) -> TokenTree:
        assert self._sampler is not None, "begin() comes first"
        return self._grower.propose(root, self._sampler, self._catch_up)

    def accept(self, tree: TokenTree, verdict: Verdict, scores: Scores) -> None:
        path = torch.tensor(verdict.path, device=tree.depths.device)
        own = path[path < self._grower.slots.shape[0]]  # nodes behind these are another drafter's
        slots = self._grower.slots[own]
        ran = (slots >= 0) & (tree.depths[own] < self._grower.levels)  # the last level was proposed, not run
        self._runner.cache.keep(slots[ran], drafted=True)
        self._pending += tree.tokens[path[int(ran.sum()) :]].tolist()
        self._grower.learn(verdict)

    def _catch_up(self) -> None:
        if self._pending:
            self._runner.prefill(torch.tensor(self._pending, device=self._runner.device))
            self._pending = []
