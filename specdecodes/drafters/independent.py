"""Classic drafting: a second, smaller model with its own cache."""

from __future__ import annotations

import torch
from torch import Tensor

from specdecodes.drafters.growing import GrowingDrafter
from specdecodes.drafters.level import LevelGrower, Missed
from specdecodes.engine.runner import ModelRunner, Scores
from specdecodes.sampling import Sampler
from specdecodes.tree import TokenTree
from specdecodes.verify import Verdict


class IndependentDrafter(GrowingDrafter):
    """Its cache follows the target's: accepted nodes are kept from its own region, and what it never ran is run first
    thing in the next proposal that it drafts; while drafting rests, nothing is."""

    def __init__(self, runner: ModelRunner, grower: LevelGrower) -> None:
        super().__init__(grower)
        self._runner = runner
        self._pending: list[int] = []  # committed, and not run

    def begin(self, prompt: Tensor, kept: int, sampler: Sampler, scores: Scores) -> None:
        cache = self._runner.cache
        cache.truncate(min(kept, cache.length))
        self._sampler, self._pending = sampler, prompt[cache.length :].tolist()
        self._grower.begin(self._missed)

    def accept(self, tree: TokenTree, verdict: Verdict, scores: Scores) -> None:
        kept = self._keep(tree, verdict) if self._grower.levels else 0
        self._pending += (self._root, *verdict.tokens[:-1])[kept:]
        self._grower.learn(verdict)

    def _keep(self, tree: TokenTree, verdict: Verdict) -> int:
        """Commit the rows of the path that the draft ran; returns their number."""
        path, _ = verdict.on(tree.depths.device)
        own = sum(node < self._grower.slots.shape[0] for node in verdict.path)  # behind these are another drafter's
        slots = self._grower.slots[path[: min(own, self._grower.levels)]]  # the last level was proposed, not run
        kept = slots[slots >= 0]
        self._runner.cache.keep(kept, drafted=True)
        return kept.shape[0]

    @property
    def _missed(self) -> Missed:
        return Missed(len(self._pending), self._catch_up)

    def _catch_up(self) -> None:
        if self._pending:
            self._runner.follow(torch.tensor(self._pending, device=self._runner.device))
            self._pending = []
