"""A method is a drafter: who proposes the tree, and what it does with the verdict."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from specdecodes.engine.runner import Scores
from specdecodes.sampling import Sampler
from specdecodes.stats import LevelWork
from specdecodes.tree import TokenTree
from specdecodes.verify import Verdict


class Drafter(Protocol):
    """Proposes trees for one request at a time."""

    @property
    def levels(self) -> int:
        """Draft steps that the last proposal took."""
        ...

    @property
    def middles(self) -> tuple[LevelWork, ...]:
        """What middle models did for the last proposal, the one next to the target first; mostly there are none."""
        ...

    def begin(self, prompt: Tensor, kept: int, sampler: Sampler, scores: Scores) -> None:
        """A request starts, or one goes on elsewhere than was thought. `prompt` [n]: all its tokens, now committed in
        the target's cache, of which the first `kept` were already there; `scores`: the target's on the last one, with
        its `states` on all that are new."""
        ...

    def propose(self, root: int) -> TokenTree:
        """A tree rooted at the last emitted token, of the capacity that the target verifies."""
        ...

    def accept(self, tree: TokenTree, verdict: Verdict, scores: Scores) -> None:
        """The verdict on the last proposal; the target's cache already holds `verdict.path`.

        `tree` is that proposal, nodes in their places; another drafter may have grafted more behind them."""
        ...
