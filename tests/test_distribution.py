"""What a method samples is the target's own distribution: every outcome of the dice is gone through, and its chance.

Frequencies would need a hundred thousand answers to show a bias of 1%. Here the dice of each position are loaded, all
outcomes are gone through, and what each method says of them adds up to the whole, to the last digits of fp32.
"""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch

from specdecodes import sampling
from specdecodes.config import Draft, Target, Tree
from specdecodes.methods import METHODS, UNDRAFTED, build
from specdecodes.sampling import SamplingParams, process
from tests.test_lossless import pipeline_for

PROMPT, TOKENS, RANKS = (5, 9, 11), 4, 2
PARAMS = SamplingParams(temperature=0.8, top_k=RANKS, repetition_penalty=1.1, max_tokens=TOKENS, ignore_eos=True)
ONE = replace(PARAMS, max_tokens=1)
LOADED = 100.0  # more than logits of a tiny model lie apart

pytestmark = pytest.mark.usefixtures("untimed")


@pytest.fixture
def dice(monkeypatch):
    """`dice[position]`: which of the likeliest tokens is to be chosen there; 0 is the likeliest."""
    ranks = {}

    def perturb(scores, params, noise, positions):
        order = scores.sort(dim=-1, descending=True, stable=True).indices
        chosen = order.gather(1, torch.tensor([[ranks.get(position, 0)] for position in positions.tolist()]))
        return scores.scatter_add(1, chosen, torch.full_like(scores[:, :1], LOADED))

    monkeypatch.setattr(sampling, "perturb", perturb)
    return ranks


def chances(rows, tokens):
    """Of `tokens`, one after another, by the raw logits `rows` [n, vocab] before each."""
    seen = torch.zeros(rows.shape, dtype=torch.bool)
    for place in range(len(tokens)):
        seen[place, list(PROMPT + tokens[:place])] = True
    shares = process(rows, PARAMS, seen).double().softmax(-1)
    return shares, float(shares[range(len(tokens)), list(tokens)].prod())


def outcomes(pipeline):
    """`ranks: (tokens, probability)` from prompts alone: every prefix is one, so nothing is drafted, kept or moved."""
    found = {(): ((), 1.0)}
    with build(pipeline, progress=lambda text: None) as generator:
        for _ in range(TOKENS):
            shorter, found = found, {}
            for ranks, (tokens, chance) in shorter.items():
                rows = []
                generator.generate(PROMPT + tokens, ONE, on_logits=rows.append)
                likeliest = chances(rows[0].expand(len(tokens) + 1, -1), (*tokens, 0))[0][-1].sort(descending=True)
                for rank in range(RANKS):
                    token = int(likeliest.indices[rank])
                    found[(*ranks, rank)] = (*tokens, token), chance * float(likeliest.values[rank])
    return found


@pytest.fixture(scope="module")
def target_outcomes(tiny_checkpoint):
    """By how the target is quantized."""
    known = {}

    def of(quant):
        if quant not in known:
            plain = pipeline_for("vanilla", tiny_checkpoint("llama"), None, exact=False)
            known[quant] = outcomes(replace(plain, target=replace(plain.target, quant=quant)))
        return known[quant]

    return of


@pytest.mark.parametrize("method", METHODS)
def test_every_outcome_has_the_target_s_probability(method, tiny_checkpoint, target_outcomes, dice):
    folder, quant = tiny_checkpoint("llama"), "w4a16:g32" if method == "qspec" else "none"
    pipeline = pipeline_for(method, folder, folder, exact=False, depth=2)
    if method == "qspec":
        pipeline = replace(pipeline, target=Target(str(folder), device="cpu", quant=quant), draft=Draft())
    wanted, apart, rounds = target_outcomes(quant), 0.0, 0
    assert len(wanted) == RANKS**TOKENS and sum(chance for _, chance in wanted.values()) == pytest.approx(1)
    with build(pipeline, progress=lambda text: None) as generator:
        for ranks, (tokens, chance) in wanted.items():
            dice.update(zip(itertools.count(len(PROMPT)), ranks, strict=False))
            rows = []
            generation = generator.generate(PROMPT, PARAMS, on_logits=lambda part, kept=rows: kept.append(part.clone()))
            assert generation.tokens == tokens
            apart += abs(chances(torch.cat(rows), tokens)[1] - chance)
            rounds += len(generation.rounds)
    assert apart / 2 < 1e-5  # the distance of the two distributions: twenty times less than a bias of 0.02%
    if method not in UNDRAFTED and "eagle" not in method:  # whose heads are random
        assert rounds < 0.8 * len(wanted) * (TOKENS - 1)


def test_a_draft_that_is_the_target_itself_is_always_right(tiny_checkpoint):
    """Sampled: it throws the target's own dice, those of each position, so that one lane is enough."""
    folder = tiny_checkpoint("llama")
    pipeline = replace(pipeline_for("classic_sd", folder, folder, exact=False), tree=Tree(1, 3, 4, adaptive=False))
    with build(pipeline, progress=lambda text: None) as generator:
        generation = generator.generate(PROMPT, SamplingParams(temperature=1.0, seed=3, max_tokens=25, ignore_eos=True))
    assert [made.accepted for made in generation.rounds] == [3] * 6
