"""The tree that is verified holds the best of all children that a draft saw, and hangs together."""

from __future__ import annotations

import pytest
import torch

from specdecodes.drafters.offspring import Offspring
from specdecodes.tree import TokenTree

WIDTH, LEVELS = 4, 3
CPU = torch.device("cpu")


def grown(seed: int) -> tuple[TokenTree, Offspring, list[tuple[tuple[int, ...], float]]]:
    """A tree grown as a drafter does, and every child that was seen as (path of tokens, score)."""
    dice = torch.Generator().manual_seed(seed)
    tree = TokenTree.rooted(torch.tensor(7), WIDTH * (LEVELS + 1))
    tree.scores[1:WIDTH] = float("-inf")
    offspring, seen = Offspring(tree.capacity, WIDTH, CPU), []
    paths = {0: (7,)}
    nodes = torch.arange(WIDTH)
    for _ in range(LEVELS):
        tokens = torch.stack([torch.randperm(50, generator=dice)[:WIDTH] for _ in range(WIDTH)])
        worth = tree.scores[nodes, None] - torch.rand(WIDTH, WIDTH, generator=dice).sort().values
        best = worth.flatten().topk(WIDTH)
        parents = nodes[best.indices // WIDTH]
        for row, node in enumerate(nodes.tolist()):
            if node in paths:
                seen += [((*paths[node], t), s) for t, s in zip(tokens[row].tolist(), worth[row].tolist(), strict=True)]
        offspring.put(nodes, tokens, worth, best.indices, nodes + WIDTH)
        nodes = nodes + WIDTH
        tree.put(nodes, parents, tokens.flatten()[best.indices], best.values)
        for node, parent in zip(nodes.tolist(), parents.tolist(), strict=True):
            paths[node] = (*paths[parent], int(tree.tokens[node]))
    return tree, offspring, seen


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("count", [2, 9, 40])
def test_the_best_of_all_children_hang_together(seed, count):
    tree, offspring, seen = grown(seed)
    best, nodes = offspring.best(tree, WIDTH * LEVELS, count)
    wanted = sorted(seen, key=lambda child: -child[1])[: count - 1]
    assert best.size == len(wanted) + 1 == nodes.shape[0] and best.capacity == count
    found = {}
    for node in range(best.size):
        path = best.ancestors[node].nonzero().flatten()
        assert int(best.depths[node]) == len(path) - 1
        assert node == 0 or int(best.parents[node]) == int(path[-2]), "ancestors and parents agree"
        found[tuple(best.tokens[path].tolist())] = float(best.scores[node])
    del found[(7,)]
    assert found == pytest.approx(dict(wanted))


def test_a_node_that_was_run_is_known_by_its_place():
    tree, offspring, _ = grown(3)
    best, nodes = offspring.best(tree, WIDTH * LEVELS, 40)
    ran = nodes >= 0
    assert int(ran.sum()) == 1 + WIDTH * LEVELS, "the root, and what went on or could have"
    assert torch.equal(best.tokens[: best.size][ran], tree.tokens[nodes[ran]])
    assert torch.equal(best.scores[: best.size][ran], tree.scores[nodes[ran]])


def test_a_chain_is_verified_with_children_that_it_did_not_go_on_from():
    """A draft may go on from fewer nodes than it sees children; what an earlier tree left there is not seen."""
    tree, offspring, _ = grown(4)
    first, second = torch.tensor([0]), torch.tensor([1])
    offspring.put(first, torch.tensor([[1, 2, 3, 4]]), torch.tensor([[-1.0, -2.0, -3.0, -4.0]]), first, second)
    tree.put(second, first, torch.tensor([1]), torch.tensor([-1.0]))
    offspring.put(second, torch.tensor([[5, 6, 7, 8]]), torch.tensor([[-1.5, -2.5, -9.0, -9.0]]), first, second + 1)
    best, own = offspring.best(tree, 2, 5)
    assert best.tokens[: best.size].tolist() == [7, 1, 2, 5, 6] and own.tolist() == [0, 1, -1, 2, -1]
    assert best.parents[: best.size].tolist() == [0, 0, 0, 1, 1]
