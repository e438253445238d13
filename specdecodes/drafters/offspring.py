"""The children that a draft saw, those that it went on from and those that it did not."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from specdecodes.tree import TokenTree


@dataclass(frozen=True)
class Chances:
    """`best`: of the likeliest children to be accepted, highest first. `chain`: of the root's children, of its best
    child's, and so on; empty unless asked for. `count`: children that have any chance."""

    best: list[float]
    chain: list[list[float]]
    count: int


class Offspring:
    """For each node of a grown tree of `nodes` its `width` likeliest children.

    A tree grows from the best of a level; what is verified is the best of all children of all levels (EAGLE-2, Li et
    al. 2024), which costs the draft nothing.
    """

    def __init__(self, nodes: int, width: int, device: torch.device) -> None:
        self._tokens = torch.zeros(nodes, width, dtype=torch.int64, device=device)
        self._scores = torch.full((nodes, width), float("-inf"), device=device)
        self._nodes = torch.zeros(nodes, width, dtype=torch.int64, device=device)  # of the grown tree; -1: none

    @property
    def arrays(self) -> tuple[Tensor, Tensor, Tensor]:
        """[nodes, width] of the children: tokens, scores, and the nodes that they became, or -1."""
        return self._tokens, self._scores, self._nodes

    @property
    def width(self) -> int:
        return self._scores.shape[1]

    def put(self, parents: Tensor, tokens: Tensor, scores: Tensor, chosen: Tensor, nodes: Tensor) -> None:
        """Write the children `tokens`, `scores` [k, width] of `parents` [k]. Those at the flat indices `chosen` [m]
        became `nodes` [m]. No host sync."""
        self._tokens.index_copy_(0, parents, tokens)
        self._scores.index_copy_(0, parents, scores)
        places = torch.full((tokens.numel(),), -1, device=tokens.device).index_copy(0, chosen, nodes)
        self._nodes.index_copy_(0, parents, places.view_as(tokens))

    def chances(self, ran: int, most: int, *, chain: bool) -> Chances:
        """Of the children of the first `ran` nodes, the `most` likeliest; with the `chain`, as far as it is among those
        nodes, if asked for. One host sync."""
        scores, width = self._worth(ran), self._scores.shape[1]
        best = scores.exp().sort(descending=True).values[:most]
        parts = [(scores > float("-inf")).sum()[None], best]
        if chain:
            first = scores.view(ran, width).argmax(1, keepdim=True)
            parts += [self._nodes[:ran].gather(1, first)[:, 0], scores.exp()]
        numbers = torch.cat([part.double() for part in parts]).tolist()
        told, rest = numbers[1 : 1 + best.shape[0]], numbers[1 + best.shape[0] :]
        return Chances(told, _line(rest[:ran], rest[ran:], width) if chain else [], int(numbers[0]))

    def best(
        self, grown: TokenTree, ran: int, count: int, *, room: int = 0, known: int | None = None
    ) -> tuple[TokenTree, Tensor]:
        """The `count` - 1 best children of the first `ran` nodes of `grown`, as a tree with room for `room` more; and
        for each of its nodes the one of `grown` that it is, or -1 [<= count].

        A child's score is at most its parent's, and ties keep the earlier node, so the choice is connected. Children
        of score -inf (of a level's padding) are left out; a host sync tells how many are not, unless that is `known`.
        """
        scores = self._worth(ran)
        order = scores.sort(descending=True, stable=True).indices
        left = int((scores > float("-inf")).sum()) if known is None else known
        kept = order[: min(count - 1, left)].sort().values
        parents, own = kept // self._nodes.shape[1], self._nodes[:ran].flatten()[kept]
        place = torch.zeros(grown.capacity + 1, dtype=torch.int64, device=kept.device)
        new = slice(1, 1 + kept.shape[0])
        place[own] = torch.arange(new.start, new.stop, device=kept.device)  # what has no node writes behind the last
        tree = TokenTree.rooted(grown.tokens[:1], count + room)
        tree.tokens[new] = self._tokens[:ran].flatten()[kept]
        tree.parents[new] = place[parents]
        tree.depths[new] = grown.depths[parents] + 1
        tree.scores[new] = scores[kept]
        tree.ancestors[new, 0] = True
        tree.ancestors[new, new] |= grown.ancestors[parents][:, own] & (own >= 0)
        tree.size = new.stop
        return tree, torch.cat((own.new_zeros(1), own))

    def _worth(self, ran: int) -> Tensor:
        """Scores of the children of the first `ran` nodes, [ran x width]; -inf where a draft said no number."""
        return self._scores[:ran].flatten().nan_to_num(nan=float("-inf"), neginf=float("-inf"))


def _line(after: list[float], chances: list[float], width: int) -> list[list[float]]:
    """The `chances` of the children of each node on the line of best children from the root on: `after` a node comes
    the one that its best child is."""
    line = [0]
    while 0 < after[line[-1]] < len(after):
        line.append(int(after[line[-1]]))
    return [chances[node * width : (node + 1) * width] for node in line]
