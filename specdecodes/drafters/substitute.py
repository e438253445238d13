"""SubSpec: the target's own weights, those that stream replaced by quantized substitutes, draft on the target's
cache."""

from __future__ import annotations

from torch import Tensor

from specdecodes.drafters.growing import GrowingDrafter
from specdecodes.engine.runner import Scores
from specdecodes.sampling import Sampler
from specdecodes.tree import TokenTree
from specdecodes.verify import Verdict


class SubstituteDrafter(GrowingDrafter):
    """Needs no state of its own: committed rows are the target's, and its tree region is rewritten every round."""

    def begin(self, prompt: Tensor, kept: int, sampler: Sampler, scores: Scores) -> None:
        self._sampler = sampler

    def accept(self, tree: TokenTree, verdict: Verdict, scores: Scores) -> None:
        self._grower.learn(verdict)
