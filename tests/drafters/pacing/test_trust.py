"""What a draft's word is worth is learned from what the target takes."""

from __future__ import annotations

import math
import random

import pytest
import torch

from specdecodes.drafters.pacing.trust import Trust
from specdecodes.tree import TokenTree
from specdecodes.verify import Verdict

CPU = torch.device("cpu")
SAID = (0.05, 0.2, 0.4, 0.6, 0.8, 0.9, 0.97)


def chain(trust: Trust, said: list[float]) -> TokenTree:
    """Token k at depth k, as a draft proposes it that says so much of each."""
    tree = TokenTree.chain(torch.arange(1 + len(said)), 1 + len(said))
    tree.scores[1:] = trust.correct(torch.tensor(said).log()).cumsum(0)
    return tree


def taught(truth, rounds: int = 400) -> Trust:
    """Has seen chains of which the target takes a token with the chance `truth(said)`."""
    trust, dice = Trust(CPU), random.Random(3)
    for _ in range(rounds):
        said = [dice.choice(SAID) for _ in range(6)]
        tree = chain(trust, said)
        taken = next((place for place, p in enumerate(said) if dice.random() >= truth(p)), len(said))
        verdict = Verdict(tuple(range(1 + taken)), (*range(1, 1 + taken), 99))
        trust.learn(tree, tree.size, verdict)
    return trust


def believed(trust: Trust) -> list[float]:
    return trust.correct(torch.tensor(SAID).log()).exp().tolist()


def test_at_first_a_draft_is_taken_at_its_word():
    assert believed(Trust(CPU)) == pytest.approx(SAID, abs=1e-5)


@pytest.mark.parametrize(
    "truth",
    [lambda p: p, lambda p: p**0.4, lambda p: p**3, lambda p: 0.5],
    ids=["right", "doubting", "too sure", "says nothing"],
)
def test_learned_near_what_the_target_takes(truth):
    """A draft that is right, one that doubts, one that is too sure, and one whose word says nothing."""
    found = believed(taught(truth))
    assert found == pytest.approx([truth(said) for said in SAID], abs=0.12)
    assert found == sorted(found), "what the draft prefers stays preferred"


def test_a_change_is_learned_too():
    trust = taught(lambda p: p)
    before, dice = believed(trust), random.Random(4)
    for _ in range(200):
        tree = chain(trust, [0.9, 0.9])
        taken = int(dice.random() < 0.5)
        trust.learn(tree, tree.size, Verdict(tuple(range(1 + taken)), (*range(1, 1 + taken), 99)))
    assert believed(trust)[5] < 0.65 < before[5]


def test_only_children_of_accepted_nodes_tell_something():
    """Nodes of others behind the draft's own, and what follows a refused one, change nothing."""
    trust, same = Trust(CPU), Trust(CPU)
    tree = chain(trust, [0.8, 0.7, 0.6, 0.5])
    trust.learn(tree, 5, Verdict((0,), (99,)))
    same.learn(tree, 2, Verdict((0,), (99,)))
    assert believed(trust) == believed(same) != pytest.approx(SAID, abs=1e-5)


def test_the_last_token_of_an_answer_that_was_cut_is_no_miss():
    """The target said what the next node is, but the answer ended there."""
    trust = Trust(CPU)
    tree = chain(trust, [0.5, 0.5, 0.5])
    trust.learn(tree, tree.size, Verdict((0, 1), (1, 2)))
    assert believed(trust)[2] > 0.4


def test_excluded_tokens_stay_excluded_and_sure_ones_finite():
    corrected = taught(lambda p: p**0.4, 50).correct(torch.tensor([0.0, -1e-9, float("-inf")]))
    assert corrected[:2].isfinite().all() and (corrected[:2] <= 0).all() and corrected[2] == float("-inf")


def test_a_tree_is_rescored_along_its_paths():
    trust = taught(lambda p: p**0.4, 100)
    tree = chain(Trust(CPU), [0.8, 0.6])
    trust.rescore(tree)
    steps = trust.correct(torch.tensor([0.8, 0.6]).log()).tolist()
    assert tree.scores.tolist() == pytest.approx([0.0, steps[0], sum(steps)], abs=1e-4)
    assert math.exp(steps[0]) > 0.8
