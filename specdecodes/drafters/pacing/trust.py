"""What a draft's own probabilities are worth: how often the target takes a token of which the draft says so much.

A logistic curve over the draft's log-odds (Platt 1999), learned online from every verified child of an accepted node. A
draft in few bits doubts what then is taken, and a head is too sure: both are two numbers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from specdecodes.tree import TokenTree
from specdecodes.verify import Verdict

SURE = 5.0  # log-odds above which none are told apart
FADE = 0.97  # of the weight of what was learned, from round to round
PRIOR = (2.0, 8.0)  # weight of the draft's own word: of a curve without a shift, and of slope 1
STEEP = (0.1, 4.0)  # slopes at least and at most: what the draft prefers stays preferred


class Trust:
    """Corrects log-probabilities of tokens after their parents. On the device, its `curve` [2], shift and slope, is a
    tensor that never moves: recorded steps read it."""

    def __init__(self, device: torch.device) -> None:
        self.curve = torch.tensor([0.0, 1.0], device=device)
        self._shift, self._slope = 0.0, 1.0
        self._weights = (PRIOR[0], 0.0, PRIOR[1])  # of shift, of both, of slope

    @property
    def habits(self) -> tuple[float, ...]:
        """What was learned: shift and slope, and the weights of the evidence for them."""
        return self._shift, self._slope, *self._weights

    def resume(self, habits: Sequence[float]) -> None:
        """Go on from the `habits` of another."""
        self._shift, self._slope, *weights = habits
        self._weights = weights[0], weights[1], weights[2]
        self.curve.copy_(torch.tensor([self._shift, self._slope]))

    def correct(self, said: Tensor) -> Tensor:
        """Log-chances that the target takes tokens of which the draft `said` these log-probabilities; in their order.
        No host sync."""
        odds = (said - torch.log1p(-said.exp())).clamp(max=SURE)
        return F.logsigmoid(self.curve[0] + self.curve[1] * odds)

    def rescore(self, tree: TokenTree) -> None:
        """Correct the scores of a tree, in place."""
        size = tree.size
        steps = self.correct(tree.scores[:size] - tree.scores[tree.parents[:size]])
        steps[:1] = 0.0
        tree.scores[:size] = tree.ancestors[:size, :size].to(steps.dtype) @ steps

    def learn(self, tree: TokenTree, nodes: int, verdict: Verdict) -> None:
        """The first `nodes` of `tree`, whose scores add up what `correct` said, were verified."""
        known, after = tree.on_host(), dict(zip(verdict.path, verdict.tokens, strict=True))
        scores, said, taken = known.scores, [], []
        for node, (parent, token) in enumerate(zip(known.parents[:nodes], known.tokens[:nodes], strict=True)):
            if node and parent in after:
                said.append(self._odds(scores[node] - scores[parent]))
                taken.append(token == after[parent])
        self._learn(said, taken)
        self.curve[:1], self.curve[1:] = self._shift, self._slope  # filled: a copy from the host would be waited for

    def _odds(self, chance: float) -> float:
        """What the draft said of a token, from its corrected log-chance: log-odds, as far as they are told apart."""
        corrected = chance - math.log(max(-math.expm1(min(chance, 0.0)), 1e-9))
        return min(max((corrected - self._shift) / self._slope, -SURE), SURE)

    def _learn(self, said: Sequence[float], taken: Sequence[bool]) -> None:
        """A Newton step on these trials; earlier ones are its prior, with a weight that fades to the first one's."""
        both = zip(self._weights, (PRIOR[0], 0.0, PRIOR[1]), strict=True)
        shift, mixed, slope = (FADE * now + (1.0 - FADE) * first for now, first in both)
        first, second = 0.0, 0.0
        for odds, hit in zip(said, taken, strict=True):
            chance = 1.0 / (1.0 + math.exp(-self._shift - self._slope * odds))
            weight, miss = chance * (1.0 - chance), hit - chance
            shift, mixed, slope = shift + weight, mixed + weight * odds, slope + weight * odds * odds
            first, second = first + miss, second + miss * odds
        area = shift * slope - mixed * mixed
        self._weights = shift, mixed, slope
        self._shift += (slope * first - mixed * second) / area
        self._slope = min(max(self._slope + (shift * second - mixed * first) / area, STEEP[0]), STEEP[1])
