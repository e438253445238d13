"""Grafting, against tries of plain Python."""

from __future__ import annotations

import pytest
import torch

from specdecodes.drafters.graft import Branches, graft
from specdecodes.tree import TokenTree
from tests.test_tree import grown


def paths_of(tree: TokenTree) -> list[tuple[int, ...]]:
    """The tokens from the root to every node."""
    paths = [(int(tree.tokens[0]),)]
    for node in range(1, tree.size):
        paths.append((*paths[int(tree.parents[node])], int(tree.tokens[node])))
    return paths


def roomy(tree: TokenTree, room: int) -> TokenTree:
    """`tree`, with room for more."""
    wider = TokenTree.rooted(tree.tokens[:1], tree.size + room)
    for node in range(1, tree.size):
        wider.extend(tree.parents[node, None], tree.tokens[node, None], tree.scores[node, None])
    return wider


def falling(*rows: list[int]) -> Branches:
    """Paths that all fall by a tenth a token; the first is believed most."""
    width = max(map(len, rows))
    tokens = torch.tensor([row + [-1] * (width - len(row)) for row in rows])
    share = torch.arange(len(rows), 0, -1)[:, None] / len(rows) ** 2
    return Branches(tokens, torch.where(tokens >= 0, share * 0.9 ** torch.arange(width), 0.0))


def random_branches(seed: int, tree: TokenTree) -> Branches:
    """Half of them begin on the tree."""
    rng = torch.Generator().manual_seed(seed)
    known = paths_of(tree)
    rows = []
    for number in range(6):
        stem = known[int(torch.randint(tree.size, (1,), generator=rng))] if number % 2 else known[0]
        rows.append([*stem, *torch.randint(0, 4, (1 + number % 5,), generator=rng).tolist()])
    return falling(*rows)


@pytest.mark.parametrize("limit", [3, 50])
@pytest.mark.parametrize("seed", range(10))
def test_what_is_added_are_the_paths_and_nothing_twice(seed, limit):
    tree = grown(seed)
    before, branches = paths_of(tree), random_branches(seed, tree)
    tree = roomy(tree, 60)
    graft(tree, branches, limit)
    after = paths_of(tree)
    wanted = {tuple(row[:end].tolist()) for row in branches.tokens for end in range(1, 1 + int((row >= 0).sum()))}
    assert after[: len(before)] == before
    added = after[len(before) :]
    assert set(added) <= wanted - set(before)
    assert len(added) == len(set(added)) == min(limit, len(wanted - set(before)))
    for node in range(1, tree.size):
        parent = int(tree.parents[node])
        assert parent < node
        assert tree.scores[node] <= tree.scores[parent]
        assert int(tree.depths[node]) == len(after[node]) - 1
        line = tree.ancestors[parent].clone()
        line[node] = True
        assert torch.equal(tree.ancestors[node], line)


def test_room_goes_to_the_likeliest():
    """Two paths agree on 1: together they weigh more than the one that begins with 2."""
    tree = TokenTree.rooted(torch.tensor(9), 8)
    tokens = torch.tensor([[9, 2, 3], [9, 1, 4], [9, 1, 5]])
    graft(tree, Branches(tokens, torch.tensor([[0.4, 0.36, 0.3], [0.3, 0.27, 0.1], [0.3, 0.27, 0.2]])), 3)
    assert paths_of(tree) == [(9,), (9, 2), (9, 1), (9, 2, 3)]
    assert tree.scores[:4].exp().tolist() == pytest.approx([1.0, 0.36, 0.54, 0.3])


def test_nothing_new_adds_nothing():
    tree = grown(0)
    before = tree.size
    tree = roomy(tree, 4)
    graft(tree, falling(list(paths_of(tree)[7])), 4)
    assert tree.size == before
