"""Two drafters in one: n-gram branches on another's tree."""

from __future__ import annotations

from torch import Tensor

from specdecodes.drafters import Drafter
from specdecodes.drafters.ngram import NgramDrafter
from specdecodes.engine.runner import Scores
from specdecodes.sampling import Sampler
from specdecodes.stats import LevelWork
from specdecodes.tree import TokenTree
from specdecodes.verify import Verdict


class CombinedDrafter:
    """Grafts at most `limit` nodes behind those of `base`, as far as its trees have room.

    `base` hears of the whole tree, in which its own nodes have kept their places.
    """

    def __init__(self, base: Drafter, ngram: NgramDrafter, limit: int) -> None:
        self._base, self._ngram, self._limit = base, ngram, limit

    @property
    def levels(self) -> int:
        return self._base.levels

    @property
    def middles(self) -> tuple[LevelWork, ...]:
        return self._base.middles

    def begin(self, prompt: Tensor, kept: int, sampler: Sampler, scores: Scores) -> None:
        self._base.begin(prompt, kept, sampler, scores)
        self._ngram.begin(prompt, kept, sampler, scores)

    def propose(self, root: int) -> TokenTree:
        tree = self._base.propose(root)
        self._ngram.extend(tree, self._limit, root)
        return tree

    def accept(self, tree: TokenTree, verdict: Verdict, scores: Scores) -> None:
        self._base.accept(tree, verdict, scores)
        self._ngram.accept(tree, verdict, scores)
