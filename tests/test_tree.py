"""Properties of token trees."""

from __future__ import annotations

import pytest
import torch

from specdecodes.tree import TokenTree


def grown(seed: int, levels: int = 5, width: int = 4) -> TokenTree:
    """A random tree, `width` nodes a level, scores falling along every path."""
    rng = torch.Generator().manual_seed(seed)
    tree = TokenTree.rooted(torch.tensor(7), 1 + levels * width)
    level = slice(0, 1)
    for _ in range(levels):
        parents = torch.randint(level.start, level.stop, (width,), generator=rng)
        tokens = torch.randperm(50, generator=rng)[:width]
        scores = tree.scores[parents] - torch.rand(width, generator=rng)
        level = tree.extend(parents, tokens, scores)
    return tree


def path_of(tree: TokenTree, node: int) -> set[int]:
    path = {node}
    while node:
        node = int(tree.parents[node])
        path.add(node)
    return path


@pytest.mark.parametrize("seed", range(20))
def test_ancestors_are_the_path_to_the_root(seed):
    tree = grown(seed)
    for node in range(tree.size):
        assert set(tree.ancestors[node].nonzero().flatten().tolist()) == path_of(tree, node)
        assert int(tree.depths[node]) == len(path_of(tree, node)) - 1


def test_a_full_tree_refuses():
    tree = TokenTree.rooted(torch.tensor(1), 2)
    tree.extend(torch.tensor([0]), torch.tensor([4]), torch.tensor([-0.5]))
    with pytest.raises(ValueError, match="capacity 2"):
        tree.extend(torch.tensor([0]), torch.tensor([4]), torch.tensor([-0.5]))


def test_unused_nodes_see_only_themselves():
    tree = TokenTree.rooted(torch.tensor(1), 4)
    assert tree.ancestors.equal(torch.eye(4, dtype=torch.bool))


@pytest.mark.parametrize("count", [1, 2, 9, 21, 30])
def test_the_best_nodes_are_a_tree_of_their_own(count):
    tree = grown(3)
    best = tree.best(count)
    assert (best.capacity, best.size) == (count, min(count, tree.size))
    order = tree.scores[: tree.size].sort(descending=True).values
    assert best.scores[: best.size].sort(descending=True).values.equal(order[: best.size])
    tokens = {tuple(tree.tokens[sorted(path_of(tree, node))].tolist()) for node in range(tree.size)}
    for node in range(best.size):
        path = sorted(path_of(best, node))
        assert tuple(best.tokens[path].tolist()) in tokens
        assert best.ancestors[node].nonzero().flatten().tolist() == path
        assert int(best.depths[node]) == len(path) - 1
