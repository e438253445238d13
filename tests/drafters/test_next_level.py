"""A level chosen by the native call is the one that torch's operations choose."""

from __future__ import annotations

import pytest
import torch

from specdecodes.drafters import next_level
from specdecodes.drafters.next_level import NextLevel
from specdecodes.drafters.offspring import Offspring
from specdecodes.drafters.pacing.trust import Trust
from specdecodes.tree import TokenTree

CPU = torch.device("cpu")
CHILDREN, LEVELS, VOCAB = 4, 3, 300
BUILT = pytest.mark.skipif(next_level._library() is None, reason="no compiler here")


class Tried:
    """A tree of `LEVELS` levels of `width`, of draft scores that depend on `seed` and level alone."""

    def __init__(self, width: int, seed: int, curve: tuple[float, float] | None, broken: float | None = None) -> None:
        nodes = CHILDREN * (LEVELS + 1)
        self.tree, self.offspring = TokenTree.rooted(torch.tensor(7), nodes), Offspring(nodes, CHILDREN, CPU)
        self.tree.scores[1:width] = float("-inf")
        trust = None if curve is None else Trust(CPU)
        if trust is not None:
            trust.resume((*curve, 1.0, 0.0, 1.0))
        chooser = NextLevel(self.tree, self.offspring, 0.7, trust)
        dice, row, reach = torch.Generator().manual_seed(seed), torch.arange(width), torch.zeros(())
        self.reaches = []
        for level in range(LEVELS):
            scores = 4.0 * torch.randn(width, VOCAB, generator=dice)
            scores[:, torch.randperm(VOCAB, generator=dice)[: VOCAB - 8]] -= 30.0  # a few that count
            scores[:, VOCAB // 2 :] = float("-inf")  # of a padded vocabulary
            if broken is not None and level:
                scores[0, 3] = broken
            chooser.grow(scores, row, reach)
            self.reaches.append(float(reach))
        self.next = row


def both(monkeypatch: pytest.MonkeyPatch, *args) -> tuple[Tried, Tried]:
    native = Tried(*args)
    monkeypatch.setattr(next_level, "_library", lambda: None)
    return native, Tried(*args)


@BUILT
@pytest.mark.parametrize("width", [1, 3, CHILDREN])
@pytest.mark.parametrize("curve", [None, (0.0, 1.0), (0.6, 1.7), (-1.0, 0.3)])
def test_both_choose_alike(monkeypatch, width, curve):
    for seed in range(4):
        native, torchs = both(monkeypatch, width, seed, curve)
        monkeypatch.undo()
        size = width * (LEVELS + 1)
        for name in ("tokens", "parents", "depths", "ancestors"):
            assert getattr(native.tree, name)[:size].equal(getattr(torchs.tree, name)[:size]), name
        ran = width * LEVELS
        tokens, scores, nodes = (array[:ran] for array in native.offspring.arrays)
        expected = [array[:ran] for array in torchs.offspring.arrays]
        known = expected[1] > float("-inf")  # of the others any may be chosen
        assert tokens[known].equal(expected[0][known]) and nodes[known].equal(expected[2][known])
        torch.testing.assert_close(scores, expected[1], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(native.tree.scores[width:size], torchs.tree.scores[width:size], rtol=1e-4, atol=1e-4)
        assert native.reaches == pytest.approx(torchs.reaches, rel=1e-4)
        assert native.next.equal(torchs.next)


@BUILT
@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_a_draft_that_says_no_number_is_told_as_such(monkeypatch, broken):
    for grown in both(monkeypatch, 2, 0, (0.6, 1.7), broken):
        scores = grown.offspring.arrays[1]
        assert scores[0].isfinite().all() and scores[2].isnan().all()  # of the root, and of the row that is broken
        assert grown.tree.parents.max() < grown.tree.capacity


@BUILT
def test_a_certain_draft_is_believed_no_more_than_fully(monkeypatch):
    """Log-probability 0: its log-odds are endless."""
    for library in (next_level._library(), None):
        monkeypatch.setattr(next_level, "_library", lambda library=library: library)
        tree, offspring, trust = TokenTree.rooted(torch.tensor(7), 4), Offspring(4, 1, CPU), Trust(CPU)
        reach = torch.zeros(())
        NextLevel(tree, offspring, 1.0, trust).grow(torch.tensor([[0.0, 500.0]]), torch.arange(1), reach)
        assert tree.tokens[1] == 1 and float(reach) == pytest.approx(1.0 / (1.0 + 2.718281828**-5), rel=1e-5)
