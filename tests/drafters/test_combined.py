"""Grafted branches that are right, wrong, or right for a while, on every drafter: the answer stays the same."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from specdecodes.config import Draft
from specdecodes.drafters import ngram
from specdecodes.drafters.graft import Branches
from specdecodes.errors import ConfigError
from specdecodes.methods import build, plan_for
from tests.test_lossless import GREEDY, PROMPTS, SAMPLED, pipeline_for

PROMPT = PROMPTS[0]


def foretold(answer, *, wrong_every):
    """A lookup that knows the text, but for one token in `wrong_every`; a second branch goes astray at once."""
    full = torch.tensor(PROMPT + answer)

    def continuations(text, length):
        there = text.shape[0]
        right = full[there - 1 : there + length]
        if right.shape[0] <= length or not torch.equal(text, full[:there]):
            return None
        right = torch.where(torch.arange(there - 1, there + length) % wrong_every == 0, 3, right)
        right[0] = text[-1]
        astray = right.clone()
        astray[1] = (right[1] + 1) % 97
        reach = 0.5 * 0.95 ** torch.arange(length + 1)
        return Branches(torch.stack((right, astray)), torch.stack((reach, reach / 2)))

    return continuations


@pytest.mark.parametrize("params", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
@pytest.mark.parametrize("method", ["classic_sd", "subspec_sd"])
def test_grafts_are_accepted_beyond_the_draft_s_own(method, params, tiny_checkpoint, monkeypatch):
    """Another model drafts two levels, often wrongly; what is grafted goes on, and the draft follows."""
    folder, draft = tiny_checkpoint("llama"), tiny_checkpoint("llama", seed=1 if params is SAMPLED else 0)
    pipeline = pipeline_for(method, folder, draft, exact=True, depth=2)
    with build(pipeline, progress=lambda text: None) as made:
        wanted = made.generate(PROMPT, params)
    monkeypatch.setattr(ngram, "continuations", foretold(wanted.tokens, wrong_every=7))
    with build(replace(pipeline, draft=replace(pipeline.draft, ngram=6)), progress=lambda text: None) as made:
        drafter = made._drafter._base
        combined = made.generate(PROMPT, params)
        again = made.generate(PROMPT, params)
    assert combined.tokens == again.tokens == wanted.tokens
    assert max(r.accepted for r in combined.rounds) > 2, "deeper than the draft goes"
    assert len(combined.rounds) < len(wanted.rounds)
    if method == "classic_sd":
        ahead = len(drafter._pending)
        assert drafter._runner.cache.length + ahead == made._target.cache.length


@pytest.mark.parametrize("method", ["vanilla", "ngram_sd"])
def test_there_must_be_a_draft_to_graft_onto(method, tiny_checkpoint):
    pipeline = pipeline_for(method, tiny_checkpoint("llama"), None, exact=True)
    with pytest.raises(ConfigError, match=f"draft.ngram.*{method}"):
        plan_for(replace(pipeline, draft=Draft(ngram=4)))


def test_a_draft_keeps_room_of_its_own(tiny_checkpoint):
    pipeline = pipeline_for("subspec_sd", tiny_checkpoint("llama"), None, exact=True)
    with pytest.raises(ConfigError, match="draft.ngram.*at most 10"):
        replace(pipeline, draft=Draft(ngram=11))
