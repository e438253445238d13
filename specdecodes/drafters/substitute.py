"""SubSpec: the target's own weights, those that stream replaced by quantized substitutes, draft on the target's
cache."""

from __future__ import annotations

from torch import Tensor

from specdecodes.drafters.level import LevelGrower
from specdecodes.engine.runner import Scores
from specdecodes.sampling import Sampler
from specdecodes.tree import TokenTree
from specdecodes.verify import Verdict


class SubstituteDrafter:
    """Needs no state of its own: committed rows are the target's, and its tree region is rewritten every round."""

    middles = ()

    def __init__(self, grower: LevelGrower) -> None:
        self._grower = grower
        self._sampler: Sampler | None = None

    @property
    def levels(self) -> int:
        return self._grower.levels

    def begin(self, prompt: Tensor, kept: int, sampler: Sampler, scores: Scores) -> None:
        self._sampler = sampler

    def propose(self, root: int) -> TokenTree:
        assert self._sampler is not None, "begin() comes first"
        return self._grower.propose(root, self._sampler)

    def accept(self, tree: TokenTree, verdict: Verdict, scores: Scores) -> None:
        self._grower.learn(verdict)
