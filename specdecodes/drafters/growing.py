"""What drafters have in common whose trees a draft model grows level by level."""

from __future__ import annotations

from specdecodes.drafters.level import LevelGrower, Missed
from specdecodes.sampling import Sampler
from specdecodes.tree import TokenTree


class GrowingDrafter:
    """Proposes what its grower grows."""

    middles = ()

    def __init__(self, grower: LevelGrower) -> None:
        self._grower = grower
        self._sampler: Sampler | None = None  # of the request
        self._root = 0  # of the last tree

    @property
    def levels(self) -> int:
        return self._grower.levels

    def propose(self, root: int) -> TokenTree:
        assert self._sampler is not None, "begin() comes first"
        self._root = root
        return self._grower.propose(root, self._sampler, self._missed)

    @property
    def _missed(self) -> Missed | None:
        """What is committed and was not run, of a draft with a cache of its own."""
        return None
