"""Checkpoints quantized elsewhere as targets: their own plain decoding is what every draft must equal."""

from __future__ import annotations

import itertools
import json
import shutil
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from specdecodes.config import Draft
from specdecodes.errors import CheckpointError, ConfigError
from specdecodes.methods import build, plan_for
from specdecodes.models.loading import open_checkpoint
from tests.quantized_linears import awq, ct_packed, ct_plain, gptq, qoq, qqq, smoothquant, write_checkpoint
from tests.test_lossless import differing_bits, pipeline_for
from tests.test_lossless_quant import PARAMS, PROMPT, both_answers

FORMATS = {
    "gptq": gptq(symmetric=False, act_order=True),
    "gptq-8": gptq(8),
    "awq": awq(),
    "ct-w4a16": ct_packed(),
    "ct-w8a8": ct_plain(),
    "ct-fp8": ct_plain("float"),
    "smoothquant": smoothquant(),
    "qqq": qqq(),
    "qqq-g128": qqq(128),
    "qoq": qoq(),
    "qoq-g128": qoq(128),
}
WIDE = {"hidden_size": 128, "intermediate_size": 128, "num_attention_heads": 4}  # what tiles and groups of 128 fill
DRAFTS = dict(zip(FORMATS, itertools.cycle(("hqq3", "hqq2", "higgs3", "hqq4", "higgs2")), strict=False))


@pytest.fixture(scope="module")
def written(tiny_checkpoint, tmp_path_factory):
    """`written(form)`: a tiny checkpoint of that format, made once."""
    made = {}

    def make(form):
        if form not in made:
            source = tiny_checkpoint("llama", **(WIDE if form.startswith("q") else {}))
            made[form] = write_checkpoint(source, tmp_path_factory.mktemp(form), *FORMATS[form])
        return made[form]

    return make


def pipeline_of(folder, method="vanilla", draft="auto", exact=True):
    return replace(pipeline_for("vanilla", folder, None, exact=exact), method=method, draft=Draft(quant=draft))


@pytest.mark.usefixtures("untimed")
@pytest.mark.parametrize("form", FORMATS)
def test_a_lower_bit_draft_of_every_format_is_exact(form, written):
    folder = written(form).folder
    tokens, logits, tau = both_answers(pipeline_of(folder, "share_sd", DRAFTS[form]))
    wanted, wanted_logits, _ = both_answers(pipeline_of(folder))
    assert tokens == wanted
    assert differing_bits(logits, wanted_logits) == 0
    assert tau > 0


@pytest.mark.usefixtures("untimed")
@pytest.mark.parametrize("form", ["gptq", "ct-w4a16"])
def test_plain_decoding_is_that_of_the_dequantized_weights(form, written, tiny_checkpoint, tmp_path):
    """The same model with every weight written out in full answers the same."""
    made = written(form)
    shutil.copytree(tiny_checkpoint("llama"), tmp_path / "full")
    file = tmp_path / "full" / "model.safetensors"
    save_file(load_file(file) | {name: weight.contiguous() for name, weight in made.weights.items()}, file)
    tokens, logits, _ = both_answers(pipeline_of(made.folder))
    wanted, wanted_logits, _ = both_answers(pipeline_of(tmp_path / "full"))
    assert tokens == wanted
    assert (logits - wanted_logits).abs().max() < 1e-4 * wanted_logits.abs().max()


@pytest.mark.usefixtures("untimed")
def test_the_reference_kernel_may_be_asked_for(written):
    pipeline = pipeline_of(written("awq").folder)
    asked = replace(pipeline, target=replace(pipeline.target, quant="@reference"))
    assert any(size == "awq4:g32@reference: reference" for _, _, size in plan_for(asked).rows())
    assert both_answers(asked)[0] == both_answers(pipeline)[0]


def test_a_quantized_checkpoint_is_not_quantized_again(written, tiny_checkpoint):
    pipeline = pipeline_of(written("awq").folder)
    with pytest.raises(ConfigError, match=r"is quantized already \(awq4:g32\)"):
        plan_for(replace(pipeline, target=replace(pipeline.target, quant="int4")))
    with pytest.raises(ConfigError, match="no full-precision linears to draft with"):
        plan_for(pipeline_of(written("awq").folder, "share_sd", "hqq2+layers.0=none"))
    full = pipeline_of(tiny_checkpoint("llama"))
    with pytest.raises(ConfigError, match="is not quantized; name a scheme"):
        plan_for(replace(full, target=replace(full.target, quant="@reference")))


@pytest.mark.usefixtures("untimed")
def test_linears_that_stayed_full_and_biases_that_came_are_taken(written, tiny_checkpoint, tmp_path):
    """One linear in full precision, and one with a bias that the family does not have."""
    made = written("gptq")
    shutil.copytree(made.folder, tmp_path / "mixed")
    file, path = tmp_path / "mixed" / "model.safetensors", "model.layers.1.mlp.up_proj"
    tensors = {name: tensor for name, tensor in load_file(file).items() if not name.startswith(path)}
    tensors[f"{path}.weight"] = made.weights[f"{path}.weight"].contiguous()
    tensors["model.layers.0.mlp.down_proj.bias"] = torch.full((64,), 3.0)
    save_file(tensors, file)
    rules = open_checkpoint(str(tmp_path / "mixed")).rules
    assert str(rules) == "gptq4:g32+layers.1.mlp.up_proj=none"
    with build(pipeline_of(tmp_path / "mixed"), progress=lambda text: None) as generator:
        answer = generator.generate(PROMPT, PARAMS[0]).tokens
    assert answer != both_answers(pipeline_of(made.folder))[0][0], "the bias is large enough to be seen"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model.layers.2.mlp.up_proj.scales": None}, "lacks the tensor model.layers.2.mlp.up_proj.scales"),
        ({"model.layers.2.mlp.up_proj.scales": torch.zeros(4, 128)}, r"has shape \[4, 128\]; quantization_config"),
        ({"model.layers.2.mlp.up_proj.qzeros": torch.zeros(2, 16)}, "calls for torch.int32"),
    ],
)
def test_damaged_checkpoints_are_refused_by_the_name_of_the_tensor(change, words, written, tmp_path):
    shutil.copytree(written("awq").folder, tmp_path / "bad")
    file = tmp_path / "bad" / "model.safetensors"
    tensors = load_file(file) | change
    save_file({name: tensor for name, tensor in tensors.items() if tensor is not None}, file)
    with pytest.raises(CheckpointError, match=words):
        open_checkpoint(str(tmp_path / "bad"))


def test_a_config_without_quantized_tensors_is_refused(tiny_checkpoint, tmp_path):
    shutil.copytree(tiny_checkpoint("llama"), tmp_path / "bad")
    config = tmp_path / "bad" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"quantization_config": awq()[0]}))
    with pytest.raises(CheckpointError, match=r"quantization_config\.quant_method .* none has the tensor qweight"):
        open_checkpoint(str(tmp_path / "bad"))
