"""The children that a draft saw, those that it went on from and those that it did not."""

from __future__ import annotations

import torch
from torch import Tensor

from specdecodes.tree import TokenTree


class Offspring:
    """For each node of a grown tree of `nodes` its `width` likeliest children.

    A tree grows from the best of a level; what is verified is the best of all children of all levels (EAGLE-2, Li et
    al. 2024), which costs the draft nothing.
    """

    def __init__(self, nodes: int, width: int, device: torch.device) -> None:
        self._tokens = torch.zeros(nodes, width, dtype=torch.int64, device=device)
        self._scores = torch.full((nodes, width), float("-inf"), device=device)
        self._nodes = torch.zeros(nodes, width, dtype=torch.int64, device=device)  # of the grown tree; -1: none

    def put(self, parents: Tensor, tokens: Tensor, scores: Tensor, chosen: Tensor, nodes: Tensor) -> None:
        """Write the children `tokens`, `scores` [k, width] of `parents` [k]. Those at the flat indices `chosen` [m]
        became `nodes` [m]. No host sync."""
        self._tokens.index_copy_(0, parents, tokens)
        self._scores.index_copy_(0, parents, scores)
        places = torch.full((tokens.numel(),), -1, device=tokens.device).index_copy(0, chosen, nodes)
        self._nodes.index_copy_(0, parents, places.view_as(tokens))

    def scores(self, ran: int) -> Tensor:
        """Of the children of the first `ran` nodes, [ran x width]."""
        return self._scores[:ran].flatten()

    def chain(self, ran: int) -> list[list[float]]:
        """Chances of the root's children, of its best child's, and so on, as far as these are among the first `ran`
        nodes. One host sync."""
        best = self._scores[:ran].max(1)
        after = self._nodes[:ran].gather(1, best.indices[:, None])[:, 0].tolist()
        line, chances = [0], self._scores[:ran].exp().tolist()
        while 0 < after[line[-1]] < ran:
            line.append(after[line[-1]])
        return [chances[node] for node in line]

    def best(self, grown: TokenTree, ran: int, count: int, *, room: int = 0) -> tuple[TokenTree, Tensor]:
        """The `count` - 1 best children of the first `ran` nodes of `grown`, as a tree with room for `room` more; and
        for each of its nodes the one of `grown` that it is, or -1 [<= count].

        A child's score is at most its parent's, and ties keep the earlier node, so the choice is connected. Children
        of score -inf (of a level's padding) are left out.
        """
        scores = self.scores(ran)
        order = scores.sort(descending=True, stable=True).indices[: count - 1]
        kept = order[scores[order] > float("-inf")].sort().values
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
