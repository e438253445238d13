"""Which of a tree's tokens the target would have chosen itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from specdecodes.tree import TokenTree

Cut = Callable[[Sequence[int]], tuple[int, str | None]]
"""Given a round's tokens: how many to emit, and why the request ends there (None: it goes on)."""


@dataclass(frozen=True)
class Verdict:
    """`path`: accepted nodes from the root down, as host integers. `tokens`: what was emitted, the bonus token last.

    `len(tokens) == len(path)`: the token after path[i] is tokens[i], which is node path[i + 1] or the bonus. `finite`:
    what was given of the path's nodes. `there`: path and tokens on the device, [2, n] int64, for what goes on from them
    without the host; None for a verdict that was not reached on one.
    """

    path: tuple[int, ...]
    tokens: tuple[int, ...]
    finite: tuple[bool, ...] = field(default=(), compare=False)
    there: Tensor | None = field(default=None, compare=False, repr=False)

    @property
    def accepted(self) -> int:
        """Draft tokens among `tokens`."""
        return len(self.path) - 1

    def cut(self, count: int) -> Verdict:
        """The verdict that emits only the first `count` tokens."""
        there = None if self.there is None else self.there[:, :count]
        return Verdict(self.path[:count], self.tokens[:count], self.finite[:count], there)

    def on(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """`path` and `tokens` [n] int64; copied from the host only if they are not there."""
        nodes, tokens = torch.tensor((self.path, self.tokens), device=device) if self.there is None else self.there
        return nodes, tokens


def verify(tree: TokenTree, choices: Tensor, finite: Tensor | None = None) -> Verdict:
    """Accept the longest path on which every node is the target's own choice after its parent.

    `choices` [>= tree.size] int64: the target's token after each node. Exact for greedy and for sampled requests alike,
    because a choice is a function of the node's logits and of its position's dice. `finite` [>= tree.size] bool: of the
    nodes, to be read along. One host sync, from which on the host knows the tree.
    """
    size = tree.size
    matches = tree.tokens[:size] == choices[tree.parents[:size]]
    matches[:1] = True
    accepted = ~(tree.ancestors[:size, :size] & ~matches).any(-1)
    order = accepted.to(torch.uint8).argsort(descending=True, stable=True)  # the path comes first, from the root down
    taken, said, *sound = tree.tell(accepted, choices, *(() if finite is None else (finite,)))
    path = tuple(node for node, yes in enumerate(taken) if yes)
    nodes = order[: len(path)]
    return Verdict(
        path,
        tuple(int(said[node]) for node in path),
        tuple(bool(flags[node]) for flags in sound for node in path),
        torch.stack((nodes, choices[nodes])),
    )
