"""A tree of proposed tokens as flat arrays.

Node 0 is the root, the last committed token; parents precede children; siblings have different tokens. A tree belongs
to one request, so its arrays have no batch axis. `n` below is `size`, `N` the capacity.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(frozen=True)
class HostTree:
    """The nodes of a tree as numbers of the host."""

    tokens: list[int]
    parents: list[int]
    depths: list[int]
    scores: list[float]


@dataclass
class TokenTree:
    """`tokens`, `parents`, `depths` [N] int64, `scores` [N] fp32 (log-weight of the path from the root), `ancestors`
    [N, N] bool.

    `ancestors[i, j]`: node j lies on the path from the root to i, i itself included. Unused nodes are their own only
    ancestor.
    """

    tokens: Tensor
    parents: Tensor
    depths: Tensor
    scores: Tensor
    ancestors: Tensor
    size: int
    _told: HostTree | None = field(default=None, repr=False, compare=False)

    @classmethod
    def rooted(cls, token: Tensor, capacity: int) -> TokenTree:
        """A tree of one node, `token` [] or [1]."""
        device = token.device
        tree = cls(
            tokens=torch.zeros(capacity, dtype=torch.int64, device=device),
            parents=torch.zeros(capacity, dtype=torch.int64, device=device),
            depths=torch.zeros(capacity, dtype=torch.int64, device=device),
            scores=torch.zeros(capacity, dtype=torch.float32, device=device),
            ancestors=torch.eye(capacity, dtype=torch.bool, device=device),
            size=1,
        )
        tree.tokens[:1] = token
        return tree

    @classmethod
    def of(cls, token: int, capacity: int, device: torch.device) -> TokenTree:
        """A tree of one node that the host knows; it is filled in, since a copy would be waited for."""
        return cls.rooted(torch.full((1,), token, dtype=torch.int64, device=device), capacity)

    @classmethod
    def chain(cls, tokens: Tensor, capacity: int, share: float = 1.0) -> TokenTree:
        """`tokens` [n] one after another, the root first; each is reached from the one before with chance `share`."""
        tree, size = cls.rooted(tokens[:1], capacity), tokens.shape[0]
        places = torch.arange(size, device=tokens.device)
        tree.tokens[:size] = tokens
        tree.parents[:size] = (places - 1).clamp(min=0)
        tree.depths[:size] = places
        tree.scores[:size] = places * math.log(share)
        tree.ancestors[:size, :size] = places[:, None] >= places
        tree.size = size
        return tree

    @property
    def capacity(self) -> int:
        return self.tokens.shape[0]

    def extend(self, parents: Tensor, tokens: Tensor, scores: Tensor) -> slice:
        """Append k nodes: `parents` [k] (existing nodes), `tokens` [k], `scores` [k]. Returns where they lie."""
        count = parents.shape[0]
        if self.size + count > self.capacity:
            raise ValueError(f"a tree of capacity {self.capacity} has no room for {count} more than {self.size} nodes")
        new = slice(self.size, self.size + count)
        self.put(torch.arange(new.start, new.stop, device=self.tokens.device), parents, tokens, scores)
        self.size += count
        return new

    def put(self, nodes: Tensor, parents: Tensor, tokens: Tensor, scores: Tensor) -> None:
        """Write k nodes at indices `nodes` [k] after their parents, whatever was there; `size` stays. No host sync."""
        self.tokens.index_copy_(0, nodes, tokens)
        self.parents.index_copy_(0, nodes, parents)
        self.depths.index_copy_(0, nodes, self.depths[parents] + 1)
        self.scores.index_copy_(0, nodes, scores)
        themselves = nodes[:, None] == torch.arange(self.capacity, device=nodes.device)
        self.ancestors.index_copy_(0, nodes, self.ancestors[parents] | themselves)

    def best(self, count: int) -> TokenTree:
        """The root and the `count` - 1 nodes of highest score, or all there are, as a tree of capacity `count`.

        A node's score is at most its parent's, and ties keep the earlier node, so the choice is connected.
        """
        order = self.scores[1 : self.size].sort(descending=True, stable=True).indices[: count - 1]
        kept = torch.cat((order.new_zeros(1), 1 + order.sort().values))
        tree, new = TokenTree.rooted(self.tokens[:1], count), slice(0, kept.shape[0])
        place = torch.zeros_like(self.parents)
        place[kept] = torch.arange(kept.shape[0], device=kept.device)
        tree.tokens[new], tree.parents[new] = self.tokens[kept], place[self.parents[kept]]
        tree.depths[new], tree.scores[new] = self.depths[kept], self.scores[kept]
        tree.ancestors[new, new] = self.ancestors[kept][:, kept]
        tree.size = new.stop
        return tree

    def tell(self, *rows: Tensor) -> list[list[float]]:
        """Let the host know the nodes, and give it `rows` [>= size] of further numbers of theirs: one host sync for all
        of them. From then on the tree stays as it is."""
        own = self.tokens, self.parents, self.depths, self.scores
        # fp64 holds tokens, indices and fp32 scores alike.
        numbers = torch.stack([row[: self.size].double() for row in (*own, *rows)]).tolist()
        tokens, parents, depths = ([int(number) for number in row] for row in numbers[:3])
        self._told = HostTree(tokens, parents, depths, numbers[3])
        return numbers[4:]

    def on_host(self) -> HostTree:
        """As it was told, or one host sync."""
        if self._told is None:
            self.tell()
        assert self._told is not None, "it is told now"
        return self._told

    def count_by_depth(self) -> tuple[int, ...]:
        """Nodes at depth 1, 2, ...; a host sync, unless the host knows the nodes."""
        depths = self.on_host().depths
        counts = [0] * (1 + max(depths))
        for depth in depths:
            counts[depth] += 1
        return tuple(counts[1:])
