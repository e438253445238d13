"""EAGLE: a head of one layer drafts from the target's hidden states."""

from __future__ import annotations

import torch
from torch import Tensor

from specdecodes.cache import KVCache
from specdecodes.drafters.growing import GrowingDrafter
from specdecodes.drafters.level import LevelGrower, Missed
from specdecodes.engine.runner import ModelRunner, Scores
from specdecodes.models.eagle import EagleHead
from specdecodes.sampling import Sampler
from specdecodes.tree import TokenTree
from specdecodes.verify import Verdict

STRIP = 1024
"""Rows of a prompt whose features are made together: what that takes beside them does not grow with the prompt."""

HEARD = 64
"""Tokens of an answer at most whose features are still to be made: while drafting rests, that need not be at once."""


class FeatureLevels:
    """Runs levels of a tree on a head. Row i of its cache is token i + 1 with the feature of token i, so a tree's root
    has a row of its own; below it, a node's feature is what the head computed for its parent."""

    def __init__(self, head: EagleHead, runner: ModelRunner) -> None:
        self.head, self.runner = head, runner
        size = (1 + runner.cache.shape.draft_nodes, head.spec.hidden_size)
        self._features = torch.zeros(size, dtype=head.dtype, device=runner.device)  # the root's, then each node's own

    @property
    def device(self) -> torch.device:
        return self.runner.device

    @property
    def cache(self) -> KVCache:
        return self.runner.cache

    @property
    def position(self) -> Tensor:
        return self.cache.count + 1

    def start(self, feature: Tensor) -> None:
        """The target's `feature` [hidden] of the token before the next tree's root."""
        self._features[0] = feature

    def level(self, tree: TokenTree, nodes: Tensor) -> Scores:
        """As `ModelRunner.level`."""
        before = torch.where(nodes == 0, 0, tree.parents[nodes] + 1)
        scores = self.runner.level(tree, nodes, self._features[before])
        self._features.index_copy_(0, nodes + 1, scores.hidden)
        return scores


class EagleDrafter(GrowingDrafter):
    """Keeps what the target said of every committed token, and gives the head that in place of its own guesses, when it
    drafts next.

    The target's runner taps the layers that the head was trained on.
    """

    def __init__(self, levels: FeatureLevels, grower: LevelGrower) -> None:
        super().__init__(grower)
        self._levels = levels
        rows, device = levels.cache.shape.max_length, levels.device
        self._tokens = torch.zeros(rows, dtype=torch.int64, device=device)
        self._features = torch.zeros(rows, levels.head.spec.hidden_size, dtype=levels.head.dtype, device=device)
        self._known = 0  # committed tokens whose features are made; then come those of `_heard`, then the root
        self._heard: list[int] = []
        self._said: list[Tensor] = []  # the target's states of them

    def begin(self, prompt: Tensor, kept: int, sampler: Sampler, scores: Scores) -> None:
        self._settle()
        self._sampler, self._known = sampler, kept
        cache = self._levels.cache
        cache.truncate(max(0, min(kept - 1, cache.length)))
        self._learn(prompt[kept:], _states(scores))
        self._grower.begin(self._missed)

    def accept(self, tree: TokenTree, verdict: Verdict, scores: Scores) -> None:
        said = _states(scores)
        if said.shape[0] == 1:  # a plain round has no time to lose
            self._said.append(said.clone())
        else:
            path, _ = verdict.on(tree.depths.device)
            self._said.append(said[path])
            if self._grower.levels:  # the root was run, and with a feature of the target's
                self._levels.cache.keep(path[:1], drafted=True)
        self._heard += (self._root, *verdict.tokens[:-1])
        if len(self._heard) >= HEARD:
            self._settle()
        self._grower.learn(verdict)

    @property
    def _missed(self) -> Missed:
        return Missed(self._known + len(self._heard) - 1 - self._levels.cache.length, self._catch_up)

    def _settle(self) -> None:
        """Make the features of what was heard."""
        if self._heard:
            self._learn(torch.tensor(self._heard, device=self._levels.device), torch.cat(self._said))
            self._heard, self._said = [], []

    def _learn(self, tokens: Tensor, states: Tensor) -> None:
        """The target committed `tokens` [n], with the hidden `states` [n, k hidden] of the layers it taps."""
        new = slice(self._known, self._known + tokens.shape[0])
        self._tokens[new] = tokens
        for first in range(0, tokens.shape[0], STRIP):
            part = states[first : first + STRIP]
            start = self._known + first
            self._features[start : start + part.shape[0]] = self._levels.head.features(part)
        self._known = new.stop

    def _catch_up(self) -> None:
        """Run the rows of all committed tokens but the last, whose own row needs the token after it."""
        self._settle()
        rows = slice(self._levels.cache.length, self._known - 1)
        if rows.start < rows.stop:
            tokens = self._tokens[rows.start + 1 : rows.stop + 1]
            self._levels.runner.follow(tokens, self._features[rows])
        self._levels.start(self._features[self._known - 1])


def _states(scores: Scores) -> Tensor:
    assert scores.states is not None, "the target's runner taps no layers"
    return scores.states
