"""Which of a tree's tokens the target would have chosen itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from specdecodes.tree import TokenTree

Cut = Callable[[Sequence[int]], tuple[int, str | None]]
"""Given a round's tokens: how many to emit, and why the request ends there (None: it goes on)."""


@dataclass(frozen=True)
class Verdict:
    """`path`: accepted nodes from the root down, as host integers. `tokens`: what was emitted, the bonus token last.

    `len(tokens) == len(path)`: the token after path[i] is tokens[i], which is node path[i + 1] or the bonus.
    """

    path: tuple[int, ...]
    tokens: tuple[int, ...]

    @property
    def accepted(self) -> int:
        """Draft tokens among `tokens`."""
        return len(self.path) - 1

    def cut(self, count: int) -> Verdict:
        """The verdict that emits only the first `count` tokens."""
        return Verdict(self.path[:count], self.tokens[:count])


def verify(tree: TokenTree, choices: Tensor) -> Verdict:
    """Accept the longest path on which every node is the target's own choice after its parent.

    `choices` [>= tree.size] int64: the target's token after each node. Exact for greedy and for sampled requests alike,
    because a choice is a function of the node's logits and of its position's dice. One host sync.
    """
    size = tree.size
    matches = tree.tokens[:size] == choices[tree.parents[:size]]
    matches[:1] = True
    accepted = ~(tree.ancestors[:size, :size] & ~matches).any(-1)
    rows = torch.stack((accepted.to(torch.int64), choices[:size])).tolist()
    path = tuple(node for node, taken in enumerate(rows[0]) if taken)
    return Verdict(path, tuple(rows[1][node] for node in path))
