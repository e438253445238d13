"""What an EAGLE head is trained on, and what it is judged by.

EAGLE-1/2: smooth L1 between its output and the target's next feature, and a tenth of the cross-entropy between what the
target's own head makes of the two. EAGLE-3: cross-entropy against the target's distribution over the head's own
vocabulary, at every step of the unrolled draft.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from specdecodes.models.eagle import EAGLE
from specdecodes.train.data_gen.shards import Stored
from specdecodes.train.head import HeadState, LearningHead

TOKEN_WEIGHT = 0.1  # of the cross-entropy beside EAGLE-1's smooth L1
STEP_DECAY = 0.8  # of a step's weight in the loss against the step before it


@dataclass(frozen=True)
class HeadBatch:
    """Conversations of different lengths, padded behind: `tokens` [B, T] int64, `mask` [B, T] bool (the assistant's),
    `inputs` [B, T, k hidden], `last` [B, T, hidden], as in `features.Features`."""

    tokens: Tensor
    mask: Tensor
    inputs: Tensor
    last: Tensor

    @classmethod
    def of(cls, conversations: Sequence[Stored]) -> HeadBatch:
        """Conversations as they are stored, together."""
        pad = nn.utils.rnn.pad_sequence
        return cls(
            pad([c.tokens for c in conversations], batch_first=True),
            pad([c.mask for c in conversations], batch_first=True),
            pad([c.inputs for c in conversations], batch_first=True),
            pad([c.last for c in conversations], batch_first=True),
        )

    def to(self, device: torch.device) -> HeadBatch:
        """On `device`, features in fp32."""
        return HeadBatch(
            self.tokens.to(device),
            self.mask.to(device),
            self.inputs.to(device, torch.float32),
            self.last.to(device, torch.float32),
        )


@dataclass(frozen=True)
class Losses:
    """Scalars: what is minimised, and its two parts at the first step (EAGLE-3 has no `feature`)."""

    total: Tensor
    feature: Tensor
    token: Tensor


@dataclass(frozen=True)
class StepRows:
    """One step of the unrolled head. `out` [B, N, hidden]; `truth` [B, N, hidden]: the target's feature there; `valid`
    [B, N] bool: rows whose next token is the assistant's, which `HeadLoss.wanted` has at `place` [B, N] int64."""

    out: Tensor
    truth: Tensor
    valid: Tensor
    place: Tensor


class HeadLoss(nn.Module):
    """A head with the frozen parts of its target that it needs: `embedding`, `output` [vocab, hidden] (the target's
    head)."""

    def __init__(self, head: LearningHead, embedding: Tensor, output: Tensor, steps: int) -> None:
        super().__init__()
        self.head, self.steps = head, steps
        self.register_buffer("embedding", embedding, persistent=False)
        self.register_buffer("output", output, persistent=False)

    embedding: Tensor
    output: Tensor

    def forward(self, batch: HeadBatch, noise: Tensor | None = None) -> Losses:
        """The losses of one batch; `noise` [B, T, k hidden] is added to what the head is given of the target."""
        inputs = batch.inputs if noise is None else batch.inputs + noise
        belief, known = self._belief(self.wanted(batch))
        total, parts = torch.zeros((), device=inputs.device), []
        for step, rows in enumerate(self.unroll(batch, inputs, self.steps)):
            feature, token = self._step_losses(rows, belief, known)
            parts.append((feature.detach(), token.detach()))
            weight = TOKEN_WEIGHT if self.head.spec.architecture == EAGLE else 1.0
            total = total + STEP_DECAY**step * (feature + weight * token)
        return Losses(total, *parts[0])

    def unroll(self, batch: HeadBatch, inputs: Tensor, steps: int) -> Iterator[StepRows]:
        """The head's output at each step; row i stands for token i + 1, at later steps for those behind it."""
        rows, state, hidden = batch.tokens.shape[1] - 1, HeadState(), inputs[:, :-1]
        said = _said(batch.mask)
        places = said.flatten().cumsum(0).view_as(said) - 1
        for step in range(steps):
            hidden = self.head(F.embedding(_from(batch.tokens, 1 + step, rows), self.embedding), hidden, state)
            valid = _from(batch.mask, 2 + step, rows)
            yield StepRows(hidden, _from(batch.last, 1 + step, rows), valid, _from(places, 1 + step, rows))

    @torch.no_grad()
    def wanted(self, batch: HeadBatch) -> Tensor:
        """The target's logits [n, vocab] before every token of the assistant's that a row may predict, in order."""
        return F.linear(batch.last[_said(batch.mask)], self.output).float()

    def draft_logits(self, out: Tensor) -> Tensor:
        """What the head makes of its output [..., hidden]: [..., draft vocab], or [..., vocab] of the target's head."""
        if self.head.spec.architecture == EAGLE:
            return F.linear(out, self.output)
        return self.head.lm_head(self.head.norm(out))

    def _belief(self, wanted: Tensor) -> tuple[Tensor, Tensor]:
        """What is learned of the target's logits [n, vocab]: their probabilities over the head's own vocabulary, and
        [n] 1.0 where the likeliest token is in it. A row whose best token the head does not know teaches nothing."""
        if self.head.spec.architecture == EAGLE:
            return wanted.softmax(-1), torch.ones(wanted.shape[0], device=wanted.device)
        return wanted[:, self.head.t2d].softmax(-1), self.head.t2d[wanted.argmax(-1)].float()

    def _step_losses(self, rows: StepRows, belief: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
        """Means over the valid rows: smooth L1 of the features, and soft cross-entropy in nats."""
        out, place = rows.out[rows.valid].float(), rows.place[rows.valid]
        count, feature = max(out.shape[0], 1), torch.zeros((), device=out.device)
        if self.head.spec.architecture == EAGLE:
            feature = F.smooth_l1_loss(out, rows.truth[rows.valid], reduction="none").mean(-1).sum() / count
        nats = -(belief[place] * self.draft_logits(out).float().log_softmax(-1)).sum(-1)
        return feature, (nats * known[place]).sum() / count

    @torch.no_grad()
    def agreement(self, batch: HeadBatch, depth: int) -> tuple[Tensor, Tensor]:
        """Of the chains that the head would draft at every row: how many have their first 1, 2, ... tokens equal to the
        target's own choices, and how many answers are that long, [depth] each.

        Both choose the likeliest token, along the conversation as it is.
        """
        accepted, possible = torch.zeros(depth), torch.zeros(depth)
        chain = reached = torch.ones_like(batch.mask[:, 1:])
        choices = self.wanted(batch).argmax(-1)
        for step, rows in enumerate(self.unroll(batch, batch.inputs, depth)):
            guess = torch.full_like(rows.valid, -1, dtype=torch.int64)
            best = self.draft_logits(rows.out[rows.valid]).argmax(-1)
            guess[rows.valid] = best if self.head.spec.architecture == EAGLE else best + self.head.d2t[best]
            choice = torch.full_like(guess, -2)
            choice[rows.valid] = choices[rows.place[rows.valid]]
            chain, reached = chain & (guess == choice), reached & rows.valid
            accepted[step], possible[step] = chain.sum(), reached.sum()
        return accepted, possible


def _said(mask: Tensor) -> Tensor:
    """Positions [B, T] whose next token is the assistant's, but for the first, for which no row stands."""
    return F.pad(mask[:, 2:], (1, 1))


def _from(rows: Tensor, start: int, count: int) -> Tensor:
    """`count` rows of [B, T, ...] from `start` on, zeros behind the last."""
    found = rows[:, start : start + count]
    missing = count - found.shape[1]
    return torch.cat((found, found.new_zeros(found.shape[0], missing, *found.shape[2:])), dim=1) if missing else found
