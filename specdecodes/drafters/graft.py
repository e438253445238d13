"""Grafting: paths from elsewhere are added to a tree, sharing the nodes that are there already."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from specdecodes.tree import TokenTree


@dataclass(frozen=True)
class Branches:
    """K paths of D tokens, all from the root of one tree: column d holds what stands at depth d.

    `tokens` [K, D] int64, -1 behind the end of a path. `reach` [K, D] fp32: each path's share in the belief that the
    text goes so far along it, falling from the column on where it may leave the tree, 0 behind its end.
    """

    tokens: Tensor
    reach: Tensor

    @classmethod
    def joined(cls, parts: list[Branches]) -> Branches:
        """All paths of `parts`, which may differ in length."""
        width = max(part.tokens.shape[1] for part in parts)
        tokens = [torch.nn.functional.pad(part.tokens, (0, width - part.tokens.shape[1]), value=-1) for part in parts]
        reach = [torch.nn.functional.pad(part.reach, (0, width - part.reach.shape[1])) for part in parts]
        return cls(torch.cat(tokens), torch.cat(reach))


def graft(tree: TokenTree, branches: Branches, limit: int) -> None:
    """Add the at most `limit` likeliest nodes of `branches` to `tree` in place, behind its own; no siblings are alike.

    Paths that begin alike are one path of their added reach. A new node's score is its parent's, less what reach falls
    by. `tree` must have room. One host sync.
    """
    size, paths = tree.size, branches.tokens.shape[0]
    alike = (branches.tokens[:, None] == branches.tokens).cumprod(-1)  # [K, K, D]: equal up to this column
    first = alike.argmax(1)  # [K, D]: the path that speaks for all that are alike so far
    held = _held(tree, branches.tokens)
    scores = _scores(tree, held, (alike * branches.reach).sum(1))
    own = first == torch.arange(paths, device=held.device)[:, None]
    ranked = scores.masked_fill((held >= 0) | ~own, float("-inf")).T.flatten()  # shallow ones first: parents lead
    order = ranked.sort(descending=True, stable=True).indices[:limit]
    chosen = order[ranked[order] > float("-inf")].sort().values
    depth, path = chosen // paths, chosen % paths
    count = chosen.shape[0]
    new = torch.arange(size, size + count, device=held.device)
    held[path, depth] = new
    nodes = held.gather(0, first)[path]  # [count, D]: the nodes along each new one's path
    below = torch.arange(nodes.shape[1], device=held.device) > depth[:, None]
    tree.tokens[new] = branches.tokens[path, depth]
    tree.parents[new] = nodes.gather(1, depth[:, None] - 1)[:, 0]
    tree.depths[new] = depth
    tree.scores[new] = scores[path, depth]
    tree.ancestors[new] = tree.ancestors[new].scatter(1, nodes.masked_fill(below, 0), True)
    tree.size += count


def _held(tree: TokenTree, paths: Tensor) -> Tensor:
    """The node of `tree` at which each of `paths` [K, D] stands in each column [K, D], -1 where it has left the
    tree."""
    size, deepest = tree.size, paths.shape[1] - 1
    depths = tree.depths[:size].clamp(max=deepest)
    strays = (paths[:, depths] != tree.tokens[:size]) | (tree.depths[:size] > deepest)  # [K, n]
    passes = (strays.float() @ tree.ancestors[:size, :size].T.float()) == 0
    nodes = torch.where(passes, torch.arange(size, device=paths.device), -1)
    return torch.full_like(paths, -1).scatter_reduce(1, depths.expand_as(nodes), nodes, "amax")


def _scores(tree: TokenTree, held: Tensor, reach: Tensor) -> Tensor:
    """Scores [K, D] of paths that leave the tree at the end of `held` [K, D] and are reached with `reach` [K, D]."""
    falls = torch.zeros_like(reach)
    falls[:, 1:] = (reach[:, 1:] / reach[:, :-1]).log()  # never above 0; no number behind an end
    falls = falls.masked_fill(held >= 0, 0.0).masked_fill(reach <= 0, float("-inf")).cumsum(1)
    return tree.scores[held.amax(1)][:, None] + falls
