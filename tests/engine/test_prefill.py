"""A prompt's way through the model: chunks, passes of the weights, and thousands of tokens."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from specdecodes.cache import CacheShape, KVCache
from specdecodes.engine.compile import eager_steps, layer_step
from specdecodes.engine.layers import ResidentLayers
from specdecodes.engine.runner import ModelRunner
from specdecodes.models.decoder import Decoder
from specdecodes.models.loading import load_layers, load_outer, open_checkpoint
from specdecodes.tree import TokenTree

LONG = 3000
CPU = torch.device("cpu")


class CountedLayers(ResidentLayers):
    """Counts the passes of the weights."""

    passes = 0

    def sections(self):
        self.passes += 1
        return super().sections()


@pytest.fixture(scope="module")
def loaded(tiny_checkpoint):
    """`loaded(family)`: a tiny model of 4096 positions, and its folder."""

    def load(family):
        folder = tiny_checkpoint(family, max_position_embeddings=4096)
        checkpoint = open_checkpoint(str(folder))
        decoder = Decoder(checkpoint.spec, torch.float32)
        load_outer(decoder, checkpoint, CPU)
        load_layers(decoder, checkpoint, range(checkpoint.spec.layers), CPU)
        return decoder, folder

    return load


def runner_for(decoder, *, width=8, chunk=16, wide=64, stretch=0, exact=False):
    spec = decoder.spec
    cache = KVCache(
        CacheShape(spec.layers, spec.kv_heads, spec.head_dim, LONG + 100, target_nodes=chunk), decoder.dtype
    )
    layers = CountedLayers(decoder.stack)
    options = {"width": width, "chunk": chunk, "wide": wide, "stretch": stretch, "exact": exact}
    return ModelRunner(decoder, layers, cache, eager_steps(), **options), layers


def prompt_of(count):
    return torch.randint(3, 97, (count,), generator=torch.Generator().manual_seed(count))


@torch.no_grad()
@pytest.mark.parametrize(
    ("count", "stretch", "passes"),
    [(8, 0, 1), (200, 1000, 1), (200, 200, 2), (200, 0, 4), (1000, 1000, 2), (1000, 1024, 1), (1000, 256, 4)],
)
def test_the_weights_are_read_once_a_stretch(count, stretch, passes, loaded):
    """Of 200 tokens, three chunks of 64 and one of 16; of 1000, fifteen of 64 and three of 16 (1008 rows)."""
    runner, layers = runner_for(loaded("llama")[0], stretch=stretch)
    runner.prefill(prompt_of(count))
    assert layers.passes == passes
    assert runner.cache.length == count


@torch.no_grad()
@pytest.mark.parametrize("family", ["llama", "qwen2-sliding"])
def test_stretches_change_no_bit(family, loaded):
    """So that a method with more memory to spare, or less, says the same."""
    decoder, _ = loaded(family)
    answers = []
    for stretch in (0, 100, 1000):
        runner, _ = runner_for(decoder, stretch=stretch)
        runner.prefill(prompt_of(30))
        answers.append((runner.prefill(prompt_of(205)), runner.cache))
    for scores, cache in answers[1:]:
        assert scores.logits.equal(answers[0][0].logits) and scores.hidden.equal(answers[0][0].hidden)
        assert cache.keys[:, :, :, :235].equal(answers[0][1].keys[:, :, :, :235])


@torch.no_grad()
@pytest.mark.parametrize(("family", "exact"), [("llama", False), ("qwen2-sliding", True), ("mistral", False)])
def test_thousands_of_tokens_equal_transformers(family, exact, loaded):
    from transformers import AutoModelForCausalLM

    decoder, folder = loaded(family)
    tokens = prompt_of(LONG)
    reference = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    wanted = reference(tokens[None], logits_to_keep=6).logits[0]
    runner, _ = runner_for(decoder, chunk=64, wide=256, stretch=1024, exact=exact)
    got = [runner.prefill(tokens[:-5]).logits[0]]
    for token in tokens[-5:]:
        got.append(runner.score(TokenTree.rooted(token, 8)).logits[0])
        runner.cache.keep(torch.tensor([0]))
    assert (torch.stack(got) - wanted).abs().max() < 1e-4


@torch.no_grad()
def test_a_prompt_is_followed_without_a_head(loaded):
    """The same rows as of one that is asked for, in as many readings of the weights."""
    (runner, layers), (silent, read) = (runner_for(loaded("llama")[0], stretch=100) for _ in range(2))
    silent.steps = replace(silent.steps, head=None)
    runner.prefill(prompt_of(200))
    silent.follow(prompt_of(200))
    assert silent.cache.length == 200 and read.passes == layers.passes
    assert silent.cache.keys.equal(runner.cache.keys) and silent.cache.values.equal(runner.cache.values)


def test_passes_are_rehearsed_in_one_reading_of_the_weights(loaded):
    """Each size through the layers that stand for their kinds; the cache holds no more than before."""
    decoder, _ = loaded("llama")
    runner, layers = runner_for(decoder)
    place, seen = {layer: number for number, layer in enumerate(decoder.stack)}, []

    def watched(layer, hidden, step):
        seen.append((place[layer], hidden.shape[1]))
        return layer_step(layer, hidden, step)

    runner.stack.steps = replace(runner.steps, layer=watched)
    runner.rehearse([1, 4, 8], [0, 2])
    assert seen == [(0, 1), (0, 4), (0, 8), (2, 1), (2, 4), (2, 8)]
    assert (layers.passes, runner.cache.length) == (1, 0)
