"""The loop asks the device for the few numbers that it needs."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from specdecodes.methods import build
from specdecodes.sampling import Sampler
from tests.conftest import TINY
from tests.test_lossless import PROMPTS, SAMPLED, pipeline_for


@pytest.mark.parametrize("adaptive", [False, True])
@pytest.mark.usefixtures("untimed")
def test_logits_are_never_read_by_the_host(adaptive, tiny_checkpoint, monkeypatch):
    """Chances of the children that the draft saw are read, of which there are fewer than in a row of logits."""
    folder, read = tiny_checkpoint("llama"), []

    def spy(name):
        real = getattr(torch.Tensor, name)
        monkeypatch.setattr(torch.Tensor, name, lambda tensor, *args: (read.append(tensor), real(tensor, *args))[1])

    pipeline = pipeline_for("subspec_sd", folder, None, exact=False)
    pipeline = replace(pipeline, tree=replace(pipeline.tree, adaptive=adaptive))
    with build(pipeline, progress=lambda text: None) as generator:
        for name in ("tolist", "item", "cpu", "numpy"):
            spy(name)
        generator.generate(PROMPTS[0], replace(SAMPLED, max_tokens=12))
    numbers = [tensor.numel() for tensor in read if tensor.is_floating_point()]
    assert read and max(numbers, default=0) < TINY["vocab_size"]


@pytest.mark.parametrize("method", ["vanilla", "subspec_sd"])
@pytest.mark.usefixtures("untimed")
def test_all_that_was_said_is_history(method, tiny_checkpoint, monkeypatch):
    """The bonus tokens too: a repetition penalty that forgot them would do so in plain decoding alike."""
    seen = []
    monkeypatch.setattr(Sampler, "observe", lambda sampler, tokens: seen.extend(tokens))
    with build(pipeline_for(method, tiny_checkpoint("llama"), None, exact=False), progress=lambda text: None) as made:
        answer = made.generate(PROMPTS[0], replace(SAMPLED, max_tokens=12))
    assert tuple(seen) == (*PROMPTS[0], *answer.tokens)
