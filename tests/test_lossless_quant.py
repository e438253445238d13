"""Every scheme as target and as draft: speculation says what the quantized target's own plain decoding says."""

from __future__ import annotations

import ctypes
import os
import weakref
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from specdecodes.config import Draft, Memory, Target
from specdecodes.errors import BudgetError, ConfigError, QuantError
from specdecodes.folders import cache_folder
from specdecodes.methods import build, plan_for
from specdecodes.methods.weights import quantized
from specdecodes.models.kernels import cpu_linear
from specdecodes.quant import SCHEMES
from tests.test_lossless import GREEDY, SAMPLED, differing_bits, pipeline_for, smallest_budget

PROMPT = tuple(3 + 7 * i % 90 for i in range(40))
PARAMS = [replace(params, max_tokens=16) for params in (GREEDY, SAMPLED)]
PAIRS = list(zip(SCHEMES, [*list(SCHEMES)[7:], *list(SCHEMES)[:7]], strict=True))  # every scheme on either side


def quantized_pipeline(folder, target, draft, *, method="share_sd", exact=True, draft_model=None):
    pipeline = pipeline_for("vanilla", folder, None, exact=exact)
    drafted = Draft(draft_model and str(draft_model), quant=draft)
    return replace(pipeline, method=method, target=replace(pipeline.target, quant=target), draft=drafted)


def both_answers(pipeline):
    """Tokens and logits, greedy and sampled, and the accepted tokens a round."""
    tokens, logits, tau = [], [], 0.0
    with build(pipeline, progress=lambda text: None) as generator:
        for params in PARAMS:
            made = generator.generate(PROMPT, params, on_logits=lambda rows: logits.append(rows.clone()))
            tokens.append(made.tokens)
            tau = max(tau, made.tau)
    return tokens, torch.cat(logits), tau


@pytest.mark.usefixtures("untimed")
@pytest.mark.parametrize(("target", "draft"), PAIRS)
def test_every_scheme_is_exact_as_target_and_as_draft(target, draft, tiny_checkpoint):
    pipeline = quantized_pipeline(tiny_checkpoint("llama"), target, draft)
    tokens, logits, tau = both_answers(pipeline)
    wanted, wanted_logits, _ = both_answers(replace(pipeline, method="vanilla"))
    assert tokens == wanted
    assert differing_bits(logits, wanted_logits) == 0
    assert tau > 0


@pytest.mark.usefixtures("untimed")
@pytest.mark.parametrize("draft", ["int8", "hqq4+down_proj=hqq8", "higgs3+layers.0=none"])
def test_drafts_of_a_full_precision_target(draft, tiny_checkpoint):
    pipeline = quantized_pipeline(tiny_checkpoint("llama"), "none", draft, exact=False)
    assert len(plan_for(pipeline).substituted) == 4, "a resident layer is drafted in the draft's precision too"
    tokens, _, tau = both_answers(pipeline)
    assert tokens == both_answers(replace(pipeline, method="vanilla"))[0]
    assert tau > 1


@pytest.mark.usefixtures("untimed")
def test_two_models_with_a_scheme_each(tiny_checkpoint):
    folder, other = tiny_checkpoint("llama"), tiny_checkpoint("llama", seed=1)
    for draft_model in (folder, other):
        pipeline = quantized_pipeline(folder, "hqq8", "higgs4", method="classic_sd", draft_model=draft_model)
        tokens, _, tau = both_answers(pipeline)
        assert tokens == both_answers(replace(pipeline, method="vanilla"))[0]
        assert (tau > 1) == (draft_model == folder)


@pytest.mark.skipif(cpu_linear._library() is None, reason="no AVX512-BF16 or no compiler here")
@pytest.mark.parametrize("quant", ["hqq4:g32", "none"])
def test_passes_of_any_width_agree_in_every_bit_where_all_kernels_are_ours(quant, tiny_checkpoint):
    """Not exact, in bf16: chains and trees of other widths than plain decoding's."""
    folder = tiny_checkpoint("llama3", "bf16")
    drafted = pipeline_for("classic_sd", folder, folder, exact=False)
    drafted = replace(drafted, target=replace(drafted.target, quant=quant))
    tokens, logits, tau = both_answers(drafted)
    wanted, wanted_logits, _ = both_answers(replace(drafted, method="vanilla"))
    assert tokens == wanted and differing_bits(logits, wanted_logits) == 0
    assert tau > 0


def test_a_target_that_rounds_activations_is_exact_unless_told_otherwise(tiny_checkpoint):
    for target, exact in (("w8a8", True), ("int8", False)):
        pipeline = quantized_pipeline(tiny_checkpoint("llama"), target, "hqq4", exact=None)
        with build(pipeline, progress=lambda text: None) as generator:
            assert generator.exact == exact


def test_a_plan_counts_the_quantized_target_and_names_its_kernels(tiny_checkpoint):
    folder = tiny_checkpoint("llama", "bf16")
    full = plan_for(quantized_pipeline(folder, "none", "none", method="vanilla"))
    small = plan_for(quantized_pipeline(folder, "w4a4+layers.0=none", "none", method="vanilla"))
    layers = "4 resident layers"
    assert full.device_bytes[layers] / 4 < small.device_bytes[layers] < full.device_bytes[layers] * 0.6
    assert any("w4a4" in size for part, _, size in small.rows() if part == "target kernel")


def test_a_quantized_target_does_not_stream(tiny_checkpoint):
    pipeline = quantized_pipeline(tiny_checkpoint("llama"), "int8", "none", method="vanilla")
    least = smallest_budget(pipeline)
    assert not plan_for(replace(pipeline, memory=Memory(least))).streamed
    with pytest.raises(BudgetError, match="--device-memory"):
        plan_for(replace(pipeline, memory=Memory(least - 1)))


def test_a_draft_like_its_target_is_refused(tiny_checkpoint):
    with pytest.raises(ConfigError, match="draft.quant is none"):
        plan_for(quantized_pipeline(tiny_checkpoint("llama"), "none", "none"))
    with pytest.raises(ConfigError, match="draft.quant and target.quant are both int8"):
        plan_for(quantized_pipeline(tiny_checkpoint("llama"), "int8", "int8"))


@pytest.mark.parametrize(
    ("target", "draft", "words"),
    [
        ("int8+downproj=none", "hqq4", "unknown linear or layer 'downproj'; did you mean 'down_proj'"),
        ("none", "hqq4+layers.4=none", r"unknown linear or layer 'layers\.4'; did you mean 'layers\.3'"),
    ],
)
def test_a_rule_that_names_no_linear_is_refused(target, draft, words, tiny_checkpoint):
    with pytest.raises(QuantError, match=words):
        plan_for(quantized_pipeline(tiny_checkpoint("llama"), target, draft))


def test_loading_never_holds_more_than_a_layer_in_full_precision(tiny_checkpoint, tmp_path, monkeypatch):
    """Every weight matrix that was read is gone by the time the next layer's are."""
    monkeypatch.setenv("SPECDECODES_CACHE", str(tmp_path))
    folder, alive, most = tiny_checkpoint("llama", num_hidden_layers=8), [], []
    load = quantized.load_tensors

    def watched(spans, dtype, device):
        if any(name.endswith("q_proj.weight") for name in spans):
            most.append(sum(reference() is not None for reference in alive))
        tensors = load(spans, dtype, device)
        alive.extend(weakref.ref(tensor) for name, tensor in tensors.items() if tensor.ndim == 2)
        return tensors

    monkeypatch.setattr(quantized, "load_tensors", watched)
    pipeline = quantized_pipeline(folder, "int4", "none", method="vanilla")
    build(pipeline, progress=lambda text: None).close()
    assert most == [0] * 8 and len(alive) == 8 * 7
    alive.clear()
    most.clear()
    build(pipeline, progress=lambda text: None).close()
    assert not alive, "what was quantized before is not read again"


def test_a_target_of_another_dtype_is_quantized_from_the_file(tiny_checkpoint):
    folder = tiny_checkpoint("llama", "bf16")
    pipeline = quantized_pipeline(folder, "hqq4", "none", method="vanilla")
    pipeline = replace(pipeline, target=Target(str(folder), dtype="fp32", device="cpu", quant="hqq4"))
    with build(pipeline, progress=lambda text: None) as generator:
        assert len(generator.generate(PROMPT, PARAMS[0]).tokens) == 16


def held_bytes(field):
    """`VmRSS` or `VmHWM` of this process: the memory that it holds, and the most since that was forgotten."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024


def peak_of_loading(pipeline):
    """Bytes that this process held more at the peak of loading than before."""
    placement = plan_for(pipeline)
    ctypes.CDLL(None).malloc_trim(0)  # what earlier tests freed is given back, so that it is not taken again unseen
    Path("/proc/self/clear_refs").write_text("5")  # the peak is forgotten
    before = held_bytes("VmRSS")
    with build(pipeline, placement, progress=lambda text: None):
        return held_bytes("VmHWM") - before


@pytest.mark.usefixtures("untimed")
@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="the system keeps no peak to forget")
def test_the_peak_of_loading_is_far_below_the_full_precision_model(tiny_checkpoint, tmp_path, monkeypatch):
    kernels = cache_folder() / "kernels"
    kernels.mkdir(parents=True, exist_ok=True)
    (tmp_path / "kernels").symlink_to(kernels)  # building them takes longer than the test
    monkeypatch.setenv("SPECDECODES_CACHE", str(tmp_path))
    shape = {"num_hidden_layers": 20, "hidden_size": 256, "intermediate_size": 1024, "num_attention_heads": 8}
    folder = tiny_checkpoint("llama", **shape)
    full = (folder / "model.safetensors").stat().st_size
    quantized_target = quantized_pipeline(folder, "int4", "none", method="vanilla")
    assert full > 70e6
    assert peak_of_loading(quantized_pipeline(folder, "none", "none", method="vanilla")) > 0.9 * full
    assert peak_of_loading(quantized_target) < 0.6 * full, "solved, a layer at a time"
    assert peak_of_loading(quantized_target) < 0.6 * full, "from the cache"
