"""QSpec says what plain decoding on its own 4-bit weights says, and drafting holds nothing that the target does not."""

from __future__ import annotations

from dataclasses import replace

import pytest

from specdecodes.config import Draft, Target, Tree
from specdecodes.errors import BudgetError, ConfigError
from specdecodes.methods import build, plan_for, qspec
from specdecodes.methods.assembly import load_target
from specdecodes.methods.site import Site
from specdecodes.quant.kernels.cpu.w4a8 import W4A8Linear
from specdecodes.quant.kernels.cpu.w4a32 import W4A32Linear
from specdecodes.quant.kernels.reference import ReferenceLinear
from tests.test_lossless import GREEDY, SAMPLED, answers, differing_bits, pipeline_for

PROMPTS = ((5, 9, 11), tuple(3 + 7 * i % 90 for i in range(70)))
PARAMS = [replace(params, max_tokens=16) for params in (GREEDY, SAMPLED)]
TREES = {"tree": Tree(width=3, depth=5, nodes=12, adaptive=False), "chain": Tree(1, 3, 4, adaptive=False)}


def pipeline_of(folder, *, exact, tree="tree", compiled=False, quant="w4a16:g32"):
    pipeline = pipeline_for("vanilla", folder, None, exact=exact, compiled=compiled)
    target = Target(str(folder), device="cpu", quant=quant)
    return replace(pipeline, method="qspec", target=target, draft=Draft(), tree=TREES[tree])


pytestmark = pytest.mark.usefixtures("untimed")


def both(pipeline, params):
    """Tokens and logits of QSpec, and of plain decoding on the same weights."""
    return answers(pipeline, params, PROMPTS), answers(replace(pipeline, method="vanilla"), params, PROMPTS)


@pytest.mark.parametrize("params", PARAMS, ids=["greedy", "sampled"])
@pytest.mark.parametrize(
    ("family", "dtype", "tree", "exact"),
    [
        ("llama3", "fp32", "tree", False),
        ("qwen2-sliding", "fp32", "chain", False),
        ("qwen2-sliding", "fp32", "tree", True),
        ("qwen3", "bf16", "chain", True),
    ],
)
def test_tokens_equal_plain_decoding_on_the_same_weights(family, dtype, tree, exact, params, tiny_checkpoint):
    pipeline = pipeline_of(tiny_checkpoint(family, dtype), exact=exact, tree=tree)
    (tokens, logits), (wanted, wanted_logits) = both(pipeline, params)
    assert tokens == wanted
    if exact:
        assert differing_bits(logits, wanted_logits) == 0


def test_drafts_are_accepted_and_differ_from_the_target(tiny_checkpoint):
    with build(pipeline_of(tiny_checkpoint("llama"), exact=False), progress=lambda text: None) as generator:
        generation = generator.generate(PROMPTS[0], GREEDY)
        assert generator.origin.kernel in ("w4a8", "reference")
    assert 1 < generation.tau < 5, "inputs of 4 bits guess well, and not always"


def test_compiled_steps_say_the_same(tiny_checkpoint):
    pipeline = pipeline_of(tiny_checkpoint("llama"), exact=True, compiled=True)
    tokens, _ = answers(pipeline, PARAMS[0], PROMPTS)
    assert tokens == answers(replace(pipeline, method="vanilla", compile=False), PARAMS[0], PROMPTS)[0]


@pytest.mark.parametrize("quant", ["w4a16:g32", "w4a16:g32@reference"])
def test_drafting_takes_less_than_one_percent_of_the_weights(quant, tiny_checkpoint):
    pipeline = pipeline_of(tiny_checkpoint("llama"), exact=False, quant=quant)
    place = Site.of(pipeline)
    placement = plan_for(pipeline)
    target = load_target(place, placement, lambda text: None, width=12)
    draft = qspec.draft_of(target.decoder)
    held = {tensor.untyped_storage().data_ptr(): tensor.nbytes for tensor in target.decoder.buffers()}
    more = {tensor.untyped_storage().data_ptr(): tensor.nbytes for tensor in draft.buffers()}
    assert sum(size for address, size in more.items() if address not in held) < 0.01 * sum(held.values())
    careful, quick = (
        [part for part in model.modules() if isinstance(part, W4A32Linear | W4A8Linear | ReferenceLinear)]
        for model in (target.decoder, draft)
    )
    assert len(careful) == len(quick) == 16
    assert {part.activations for part in quick} == {"int4"}
    assert all(isinstance(part, W4A32Linear) or not part.activations for part in careful), "they are as they were"
    plain = plan_for(replace(pipeline, method="vanilla"))
    region = place.cache_shape(place.checkpoint.spec, draft_nodes=18, target_nodes=1).nbytes(4)
    assert sum(placement.device_bytes.values()) - sum(plain.device_bytes.values()) < region


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"target.quant": "none"}, "target.quant is w4a16"),
        ({"target.quant": "hqq4"}, "not hqq4"),
        ({"target.quant": "none+layers.0=w4a16:g32"}, "most weights in full precision"),
        ({"draft.quant": "hqq4"}, "not as hqq4"),
    ],
)
def test_what_cannot_be_run_in_two_ways_is_refused(changes, words, tiny_checkpoint):
    from specdecodes.config import override

    pipeline = pipeline_of(tiny_checkpoint("llama"), exact=False)
    for key, value in changes.items():
        pipeline = override(pipeline, key, value)
    with pytest.raises(ConfigError, match=words):
        plan_for(pipeline)


def test_a_budget_that_does_not_hold_it_is_refused(tiny_checkpoint):
    pipeline = pipeline_of(tiny_checkpoint("llama"), exact=False)
    with pytest.raises(BudgetError):
        plan_for(replace(pipeline, memory=replace(pipeline.memory, device="200KiB")))


def test_some_linears_may_stay_as_they_are(tiny_checkpoint):
    pipeline = pipeline_of(tiny_checkpoint("llama"), exact=False, quant="w4a16:g32+down_proj=none+layers.0=none")
    (tokens, _), (wanted, _) = both(pipeline, PARAMS[0])
    assert tokens == wanted
