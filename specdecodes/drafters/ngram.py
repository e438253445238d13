"""N-gram drafting: what followed the last tokens before, in prompt or answer, will follow them again.

Prompt lookup (Saxena 2023) by the longest suffix that occurred before, and a tree where it went on in several ways. No
model and no training.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from specdecodes.drafters.graft import Branches, graft
from specdecodes.drafters.pacing.pace import Pace
from specdecodes.drafters.pacing.trust import Trust
from specdecodes.engine.runner import Scores
from specdecodes.sampling import Sampler
from specdecodes.tree import TokenTree
from specdecodes.verify import Verdict

LONGEST = 16
"""Tokens of a suffix that are compared at most."""

CANDIDATES = 8
"""Earlier places whose continuations are proposed at most."""


class NgramDrafter:
    """Proposes trees of `capacity` nodes at most, or extends another's by continuations of at most `depth` tokens.

    `pace` says how many of them are worth verifying, and none where nothing is found; without one all trees have one
    capacity, as exact mode asks.
    """

    levels, middles = 0, ()  # no draft model is run

    def __init__(self, capacity: int, depth: int, device: torch.device, pace: Pace | None = None) -> None:
        self._capacity, self._depth, self._pace = capacity, depth, pace
        self._trust = Trust(device)
        self._text = torch.zeros(0, dtype=torch.int64, device=device)  # prompt and answer
        self._new: list[int] = []  # behind that, the last root included

    def begin(self, prompt: Tensor, kept: int, sampler: Sampler, scores: Scores) -> None:
        self._text, self._new = prompt, []

    def propose(self, root: int) -> TokenTree:
        device, pace = self._text.device, self._pace
        if pace is not None:
            pace.start()
        if pace is not None and not pace.drafts:
            self._new.append(root)
            return TokenTree.of(root, pace.plain(), device)
        tree = TokenTree.of(root, self._capacity, device)
        self.extend(tree, self._capacity - 1, root)
        if pace is None:
            return tree
        pace.ready()
        return self._cut(tree, pace) if tree.size > 1 else TokenTree.of(root, pace.plain(), device)

    def extend(self, tree: TokenTree, limit: int, root: int) -> None:
        """Add at most `limit` nodes to `tree`, where it has room: what followed its `root` before, and what followed
        the end of its likeliest path. Once a round, in place of `propose`."""
        self._new.append(root)
        limit = min(limit, tree.capacity - tree.size)
        if limit <= 0:
            return
        self._text = torch.cat((self._text, torch.tensor(self._new, device=self._text.device)))
        self._new = []
        ends = (0, likeliest_end(tree)) if tree.size > 1 else (0,)
        found = [branches for end in ends if (branches := self._after(tree, end)) is not None]
        if found:
            graft(tree, Branches.joined(found), limit)

    def accept(self, tree: TokenTree, verdict: Verdict, scores: Scores) -> None:
        self._new += verdict.tokens[:-1]  # the last one is the next root
        if self._pace is not None:
            if tree.size > 1:
                self._trust.learn(tree, tree.size, verdict)
            self._pace.learn(verdict.accepted)

    def _cut(self, tree: TokenTree, pace: Pace) -> TokenTree:
        """The part of `tree` that is worth verifying."""
        self._trust.rescore(tree)
        reach = tree.scores[1 : tree.size].exp()
        for level in torch.bincount(tree.depths[1 : tree.size], reach)[1:].tolist():
            pace.more(level)
        rows = pace.verify(reach.sort(descending=True).values.tolist())
        return tree.best(rows) if rows < tree.capacity else tree

    def _after(self, tree: TokenTree, node: int) -> Branches | None:
        """Paths from the root through `node` to what followed it before; None if nothing did."""
        path = tree.tokens[: tree.size][tree.ancestors[node, : tree.size]]
        found = continuations(torch.cat((self._text, path[1:])), self._depth)
        if found is None:
            return None
        stem = path.expand(found.tokens.shape[0], -1)
        share = found.reach[:, :1].expand_as(stem)
        return Branches(torch.cat((stem, found.tokens[:, 1:]), 1), torch.cat((share, found.reach[:, 1:]), 1))


def likeliest_end(tree: TokenTree) -> int:
    """The best node of the deepest level."""
    depths = tree.depths[: tree.size]
    return int(tree.scores[: tree.size].masked_fill(depths < depths.amax(), -math.inf).argmax())


def continuations(text: Tensor, length: int) -> Branches | None:
    """How `text` [n] goes on by its own precedents: the last token and `length` more, from the places whose past agrees
    with the end of `text` furthest, the latest ones first; None if the last token is new.

    A place that agrees in m tokens is believed twice as much as one of m - 1, and to agree k further with chance
    m / (m + k). A continuation that reaches the end of the text repeats itself from its beginning.
    """
    last = text.shape[0] - 1
    places = (text[:-1] == text[-1]).nonzero()[:, 0]
    if not places.shape[0]:
        return None
    back = torch.arange(min(LONGEST, last), device=text.device)
    agree = (text[(places[:, None] - back).clamp(min=0)] == text[last - back]) & (places[:, None] >= back)
    matched = agree.cumprod(1).sum(1)
    best = (matched * last + places).topk(min(CANDIDATES, places.shape[0])).indices
    places, matched = places[best, None], matched[best, None]
    ahead = torch.arange(length + 1, device=text.device)
    tokens = text[torch.where(ahead > 0, places + 1 + (ahead - 1).clamp(min=0) % (last - places), last)]
    share = (matched * math.log(2.0)).softmax(0)
    return Branches(tokens, share * matched / (matched + ahead))
