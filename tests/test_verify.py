"""Drafts that are never, always and sometimes right."""

from __future__ import annotations

import pytest
import torch

from specdecodes.tree import TokenTree
from specdecodes.verify import Verdict, verify


def chain(tokens: list[int]) -> TokenTree:
    tree = TokenTree.rooted(torch.tensor(tokens[0]), len(tokens))
    for node, token in enumerate(tokens[1:]):
        tree.extend(torch.tensor([node]), torch.tensor([token]), tree.scores[node : node + 1] - 1)
    return tree


def successor(tree: TokenTree) -> torch.Tensor:
    """A target that always says token + 1."""
    return tree.tokens + 1


def test_never():
    assert verify(chain([1, 9, 8, 7]), successor(chain([1, 9, 8, 7]))) == Verdict((0,), (2,))


def test_always():
    tree = chain([1, 2, 3, 4])
    assert verify(tree, successor(tree)) == Verdict((0, 1, 2, 3), (2, 3, 4, 5))


@pytest.mark.parametrize("right", range(5))
def test_sometimes(right):
    tokens = list(range(1, 2 + right)) + [90 + i for i in range(4 - right)]
    tree = chain(tokens)
    verdict = verify(tree, successor(tree))
    assert verdict.accepted == right
    assert verdict.tokens == tuple(range(2, 3 + right))


def test_a_right_token_below_a_wrong_one_does_not_count():
    tree = chain([1, 50, 51])
    assert verify(tree, successor(tree)).path == (0,)


def test_the_branch_that_is_right():
    tree = TokenTree.rooted(torch.tensor(1), 7)
    tree.extend(torch.tensor([0, 0]), torch.tensor([9, 2]), torch.tensor([-1.0, -2.0]))
    tree.extend(torch.tensor([1, 2, 2]), torch.tensor([10, 8, 3]), torch.tensor([-1.5, -2.5, -3.0]))
    verdict = verify(tree, successor(tree))
    assert verdict == Verdict((0, 2, 5), (2, 3, 4))
    assert verdict.cut(2) == Verdict((0, 2), (2, 3))
    assert verdict.cut(2).accepted == 1


def test_padding_is_never_accepted():
    tree = TokenTree.rooted(torch.tensor(0), 8)  # padding has token 0, parent 0
    assert verify(tree, torch.zeros(8, dtype=torch.int64)) == Verdict((0,), (0,))
