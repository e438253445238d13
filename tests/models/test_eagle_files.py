"""Heads on disk: what authors publish is read as it is, and a tensor that does not fit is named."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from specdecodes.errors import CheckpointError
from specdecodes.models.eagle import EagleSpec
from specdecodes.models.eagle_files import open_head
from specdecodes.models.families import ModelSpec
from specdecodes.models.loading import open_checkpoint
from tests.heads import fields_for, random_tensors, write_head

SIZES = ("hidden_size", "intermediate_size", "num_attention_heads", "rms_norm_eps", "vocab_size")


def published(
    folder: Path,
    target: Path,
    layout: str,
    change: Callable[[dict[str, Any]], None] = lambda tensors: None,
    **more: Any,
) -> tuple[Path, dict[str, Tensor], EagleSpec]:
    """A random head in one of the layouts, its tensors by our names, and its shapes."""
    kind, as_bin, fields, config, table = LAYOUTS[layout]
    ours = fields_for(target, kind, **fields)
    spec = EagleSpec.of(ours, open_checkpoint(str(target)).spec)
    tensors = random_tensors(spec)
    prefix = "midlayer." if kind == "eagle3" else "layers.0."
    renamed = {"fusion.": "fc.", "layers.0.": prefix, "rotation.": "rms_norm_rotation."}
    theirs = {}
    for name, tensor in tensors.items():
        part = next((part for part in renamed if name.startswith(part)), "")
        theirs[renamed.get(part, "") + name.removeprefix(part)] = tensor
    if table:
        theirs["embed_tokens.weight"] = torch.zeros(97, 64)
    if layout == "eagle3-whole":
        del theirs["d2t"], theirs["t2d"]
    change(theirs)
    folder.mkdir()
    names = (*SIZES, "num_key_value_heads", *(("draft_vocab_size",) if kind == "eagle3" else ()))
    base = {name: ours[name] for name in names} | {"model_type": "llama", "num_hidden_layers": 1, "pad_token_id": 0}
    (folder / "config.json").write_text(json.dumps({"architectures": ["LlamaForCausalLM"]} | base | config | more))
    if as_bin:
        torch.save(theirs, folder / "pytorch_model.bin")
    else:
        save_file({name: tensor.contiguous() for name, tensor in theirs.items()}, folder / "model.safetensors")
    return folder, tensors, spec


# kind, .bin or safetensors, our fields, what their config says beyond the sizes, whether the embedding is repeated
LAYOUTS: dict[str, tuple[str, bool, dict[str, Any], dict[str, Any], bool]] = {
    "yuhuili/EAGLE-LLaMA3.1-Instruct-8B": ("eagle", True, {}, {"bias": False, "rope_theta": 1e4}, False),
    "yuhuili/EAGLE-llama2-chat-7B": ("eagle", True, {"fusion_bias": True, "num_key_value_heads": 4}, {}, True),
    "yuhuili/EAGLE-Qwen2-7B-Instruct": (
        "eagle", True, {"fusion_bias": True, "attention_bias": True}, {"qkv_bias": True, "bias": True}, False,
    ),
    "leptonai/EAGLE-Qwen2.5-7B-Instruct": (  # no grouped heads, though its target has some
        "eagle",
        True,
        {"fusion_bias": True, "attention_bias": True, "num_key_value_heads": 4},
        {"architectures": ["Qwen2ForCausalLM"]},
        True,
    ),
    "heads trained since": ("eagle", False, {}, {"bias": False}, False),
    "YudiZh/EAGLE-LLaMA3-Instruct-8B-on-W4A8-QQQ": ("eagle", True, {"rotated": True}, {"bias": False}, False),
    "yuhuili/EAGLE3-LLaMA3.1-Instruct-8B": ("eagle3", True, {"target_layers": [2, 4, 5]}, {}, False),
    "eagle3-whole": ("eagle3", False, {"draft_vocab_size": 97, "target_layers": [2, 4, 5]}, {}, False),
}  # fmt: skip


@pytest.fixture
def target(tiny_checkpoint) -> Path:
    """Of eight layers, so that an EAGLE-3 head finds its three."""
    return tiny_checkpoint("llama", num_hidden_layers=8)


def spec_of(target: Path) -> ModelSpec:
    return open_checkpoint(str(target)).spec


@pytest.mark.parametrize("layout", LAYOUTS)
def test_published_layouts_are_read_as_they_are(layout, target, tmp_path):
    folder, tensors, spec = published(tmp_path / "head", target, layout)
    head = open_head(str(folder), spec_of(target))
    loaded = head.load()
    assert head.published and head.spec == spec and loaded.keys() == tensors.keys()
    if layout == "eagle3-whole":
        assert not loaded.pop("d2t").any() and loaded.pop("t2d").all()
    assert all(torch.equal(tensor, tensors[name]) for name, tensor in loaded.items())


def test_rope_without_a_base_is_that_of_the_published_code(target, tmp_path):
    folder, _, _ = published(tmp_path / "head", target, "yuhuili/EAGLE-llama2-chat-7B", rope_theta=5e5)
    assert open_head(str(folder), spec_of(target)).fields["rope_parameters"]["rope_theta"] == 5e5
    folder, _, spec = published(tmp_path / "other", target, "yuhuili/EAGLE-llama2-chat-7B")
    assert open_head(str(folder), spec_of(target)).spec.layer.inv_freq == spec.layer.inv_freq


@pytest.mark.parametrize(
    "listed",
    [
        {"eagle_config": {"eagle_aux_hidden_state_layer_ids": [0, 3, 6]}},  # their outputs are meant
        {"eagle_aux_hidden_state_layer_ids": [1, 4, 7]},  # what enters them
    ],
)
def test_the_layers_that_a_config_lists(listed, target, tmp_path):
    folder, _, _ = published(tmp_path / "head", target, "yuhuili/EAGLE3-LLaMA3.1-Instruct-8B", **listed)
    assert open_head(str(folder), spec_of(target)).spec.target_layers == (1, 4, 7)


def without(name: str) -> Callable[[dict[str, Any]], None]:
    return lambda tensors: tensors.__delitem__(name)


def setting(name: str, value: Any) -> Callable[[dict[str, Any]], None]:
    return lambda tensors: tensors.update({name: value})


EAGLE, EAGLE3 = "yuhuili/EAGLE-LLaMA3.1-Instruct-8B", "yuhuili/EAGLE3-LLaMA3.1-Instruct-8B"


@pytest.mark.parametrize(
    ("layout", "change", "more", "words"),
    [
        (EAGLE, without("fc.weight"), {}, r"lacks the tensor fc\.weight \[64, 128\]"),
        (EAGLE3, without("midlayer.hidden_norm.weight"), {}, r"lacks the tensor midlayer\.hidden_norm\.weight"),
        (EAGLE3, without("t2d"), {}, "lacks the tensor t2d"),
        (EAGLE, lambda tensors: None, {"bias": True}, r"lacks the tensor fc\.bias"),
        (EAGLE, setting("layers.0.input_layernorm.weight", torch.ones(64)), {}, r"a tensor layers\.0\.input_layernorm"),
        (EAGLE, setting("fc.bias", torch.ones(64)), {}, r"has a tensor fc\.bias"),
        (EAGLE, setting("layers.0.mlp.up_proj.weight", torch.ones(128, 63)), {}, r"up_proj.weight .*\[128, 63\]"),
        (EAGLE, setting("embed_tokens.weight", torch.ones(96, 64)), {}, r"embed_tokens\.weight .*\[96, 64\]"),
        (EAGLE3, setting("midlayer.self_attn.q_proj.weight", torch.ones(64, 64)), {}, r"q_proj\.weight.*\[64, 128\]"),
        (EAGLE3, setting("d2t", torch.zeros(61)), {}, r"d2t .* is torch\.float32"),
        (EAGLE, lambda tensors: None, {"num_hidden_layers": 2}, "num_hidden_layers is 2"),
        (EAGLE, lambda tensors: None, {"hidden_size": 128}, "hidden_size is 128"),
        (EAGLE3, lambda tensors: None, {"norm_before_residual": True}, "norm_before_residual is True"),
        (EAGLE3, lambda tensors: None, {"norm_output": False}, "norm_output is False"),
        (EAGLE, lambda tensors: None, {"intermediate_size": 96}, r"mlp\.gate_proj\.weight .*\[128, 64\].*\[96, 64\]"),
        (EAGLE, setting("note", "hello"), {}, "other than named tensors"),
        (EAGLE, setting("fc.weight", Path("a class")), {}, "nothing else"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_named(layout, change, more, words, target, tmp_path):
    folder, _, _ = published(tmp_path / "head", target, layout, change, **more)
    with pytest.raises(CheckpointError, match=words):
        open_head(str(folder), spec_of(target))


@pytest.mark.parametrize(("name", "place", "value"), [("d2t", 3, 0), ("d2t", 60, 90), ("t2d", 5, None)])
def test_maps_that_contradict_each_other_are_named(name, place, value, target, tmp_path):
    def change(tensors: dict[str, Tensor]) -> None:
        flipped = ~tensors["t2d"][place] if value is None else tensors["d2t"][place - 1] - 1 + value
        tensors[name][place] = flipped

    folder, _, _ = published(tmp_path / "head", target, EAGLE3, change)
    with pytest.raises(CheckpointError, match=f"{name} in .*pytorch_model.bin|t2d in"):
        open_head(str(folder), spec_of(target)).load()


def test_our_own_folder_is_checked_too(target, tmp_path):
    folder = write_head(tmp_path / "head", target)
    assert not open_head(str(folder), spec_of(target)).published
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"intermediate_size": 64}))
    with pytest.raises(CheckpointError, match=r"gate_proj\.weight in .*model\.safetensors has shape \[128, 64\]"):
        open_head(str(folder), spec_of(target))
    with pytest.raises(CheckpointError, match="architecture is None|no .*config.json"):
        open_head(str(tmp_path), spec_of(target))
