"""A head that learns computes what a head that serves computes; its losses are those of a computation by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from specdecodes.models.eagle import EagleSpec
from specdecodes.models.eagle_files import save_head
from specdecodes.models.loading import open_checkpoint
from specdecodes.train.data_gen.shards import Stored
from specdecodes.train.head import HeadState, LearningHead, head_fields
from specdecodes.train.losses import HeadBatch, HeadLoss
from specdecodes.tree import TokenTree
from tests.heads import random_tensors
from tests.models.test_eagle import close, load, runner_of

KINDS = {"eagle": {}, "eagle3": {"target_layers": (1, 2, 4), "draft_vocab_size": 61}}


@pytest.fixture(params=KINDS)
def head(request, tiny_checkpoint):
    """A head of random tensors and its target's checkpoint."""
    checkpoint = open_checkpoint(str(tiny_checkpoint("llama3")))
    fields = head_fields(checkpoint, request.param, **KINDS[request.param])
    spec = EagleSpec.of(fields, checkpoint.spec)
    learning = LearningHead(spec)
    learning.load_state_dict(random_tensors(spec))
    return learning, fields, checkpoint


def conversation(length, width, seed):
    dice = torch.Generator().manual_seed(seed)
    tokens = torch.randint(3, 97, (length,), generator=dice)
    mask = torch.arange(length) >= length // 3
    last = torch.randn(length, 64, generator=dice)
    return Stored(tokens, mask, torch.randn(length, width * 64, generator=dice) if width > 1 else last, last)


@torch.no_grad()
def test_it_computes_what_the_served_head_computes(head, tiny_checkpoint, tmp_path):
    """The rows of a sequence, then two tokens drafted behind its last row, one after the other."""
    learning, fields, checkpoint = head
    save_head(tmp_path / "head", fields, learning.tensors(torch.float32), checkpoint.spec)
    decoder, served, _ = load(tiny_checkpoint("llama3"), tmp_path / "head")
    runner, width = runner_of(served), len(fields.get("target_layers", (0,)))
    found = conversation(23, width, 1)
    features = served.features(found.inputs) if width > 1 else found.inputs
    runner.prefill(found.tokens[1:20], features[:19])
    tree = TokenTree.rooted(found.tokens[20], 12)
    hidden = [runner.level(tree, torch.tensor([0]), features[19:20]).hidden]
    for node in (1, 2):
        tree.extend(torch.tensor([node - 1]), found.tokens[20 + node, None], torch.zeros(1))
        hidden.append(runner.level(tree, torch.tensor([node]), hidden[-1]).hidden)

    state, out, ours = HeadState(), found.inputs[None, :20], []
    for step in range(3):
        out = learning(decoder.embedding[found.tokens[None, 1 + step : 21 + step]], out, state)
        ours.append(out[0, -1:])
    assert all(close(mine, theirs) for mine, theirs in zip(ours, hidden, strict=True))
    loss = HeadLoss(learning, decoder.embedding, decoder.head.weight, 1)
    logits = runner.level(tree, torch.tensor([2]), hidden[1]).logits
    assert close(loss.draft_logits(ours[-1]), logits[:, logits[0].isfinite()])


def distribution(scores):
    """Softmax, number by number."""
    powers = [math.exp(float(score)) for score in scores]
    return [power / sum(powers) for power in powers]


def by_hand(loss, found, steps):
    """The loss of one conversation, and per step how many of its rows were accepted and possible."""
    head, output = loss.head, loss.output
    three = head.spec.architecture == "eagle3"
    ids = (head.d2t + torch.arange(61)).tolist() if three else list(range(97))
    state, out, rows = HeadState(), found.inputs[None, :-1], len(found.tokens) - 1
    total, accepted, alive = 0.0, [0] * steps, [True] * rows
    for step in range(steps):
        shifted = [int(found.tokens[place]) if place <= rows else 0 for place in range(1 + step, rows + 1 + step)]
        out = head(loss.embedding[torch.tensor([shifted])], out, state)
        feature, token, count = 0.0, 0.0, 0
        for row in range(rows):
            alive[row] = alive[row] and row + 2 + step <= rows and bool(found.mask[row + 2 + step])
            if row + 2 + step > rows or not found.mask[row + 2 + step]:
                continue
            count += 1
            mine, truth = out[0, row], found.last[row + 1 + step]
            scores = truth @ output.T
            guesses = head.lm_head(head.norm(mine)) if three else mine @ output.T
            wanted, guessed = distribution(scores[ids]), distribution(guesses)
            if int(scores.argmax()) in ids:
                token -= sum(p * math.log(q) for p, q in zip(wanted, guessed, strict=True))
            gaps = [abs(float(gap)) for gap in mine - truth]
            feature += sum(gap * gap / 2 if gap < 1 else gap - 0.5 for gap in gaps) / len(gaps)
            alive[row] = alive[row] and ids[int(guesses.argmax())] == int(scores.argmax())
            accepted[step] += alive[row]
        total += 0.8**step * (token / count if three else feature / count + 0.1 * token / count)
    return total, accepted


@torch.no_grad()
def test_the_loss_of_a_batch_is_that_of_a_hand_computation(head):
    learning, fields, checkpoint = head
    dice = torch.Generator().manual_seed(5)
    embedding, output = torch.randn(97, 64, generator=dice), 0.2 * torch.randn(97, 64, generator=dice)
    loss, found = HeadLoss(learning, embedding, output, 3), conversation(14, len(fields.get("target_layers", (0,))), 2)
    total, accepted = by_hand(loss, found, 3)
    assert float(loss(HeadBatch.of([found])).total) == pytest.approx(total, rel=1e-4)
    # Were the target what the head says, the head would agree with it; half of the rows are made so.
    found = replace(found, last=found.last.clone())
    out = [rows.out[0] for rows in loss.unroll(HeadBatch.of([found]), found.inputs[None], 1)][0]
    if "target_layers" not in fields:
        found.last[1::2] = out[::2][: len(found.last[1::2])]
    _, accepted = by_hand(loss, found, 3)
    got, possible = loss.agreement(HeadBatch.of([found]), 3)
    assert got.tolist() == accepted and possible.tolist() == [10, 9, 8]
    assert got[0] > 0 or "target_layers" in fields


@torch.no_grad()
def test_padding_and_company_change_nothing(head):
    learning, fields, _ = head
    width = len(fields.get("target_layers", (0,)))
    torch.manual_seed(2)  # choices are counted, and rounding decides ties
    loss = HeadLoss(learning, torch.randn(97, 64), torch.randn(97, 64), 2)
    short, long = conversation(9, width, 1), conversation(21, width, 2)
    both = [rows.out for rows in loss.unroll(HeadBatch.of([short, long]), HeadBatch.of([short, long]).inputs, 2)]
    alone = [rows.out for rows in loss.unroll(HeadBatch.of([short]), short.inputs[None], 2)]
    for one, other in zip(alone, both, strict=True):  # the last row's later steps have no token to stand for
        torch.testing.assert_close(one[0, :-2], other[0, :6], atol=2e-3, rtol=2e-3)
    apart = [loss.agreement(HeadBatch.of([found]), 2) for found in (short, long)]
    together = loss.agreement(HeadBatch.of([short, long]), 2)
    assert all(torch.equal(apart[0][i] + apart[1][i], together[i]) for i in (0, 1))


def test_a_batch_without_answers_has_no_loss(head):
    learning, fields, _ = head
    found = conversation(9, len(fields.get("target_layers", (0,))), 1)
    silent = replace(found, mask=torch.zeros(9, dtype=torch.bool))
    losses = HeadLoss(learning, torch.randn(97, 64), torch.randn(97, 64), 2)(HeadBatch.of([silent]))
    losses.total.backward()
    assert losses.total.item() == 0
