"""What is planned for targets of real size, from headers over a hole in the place of the weights."""

from __future__ import annotations

import json
import math
import struct
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig

from specdecodes import pipelines
from specdecodes.config import Memory, Target
from specdecodes.methods import plan_for
from specdecodes.methods.memory import placement
from specdecodes.models.families import spec_of
from specdecodes.offload.planning.work import Machine
from specdecodes.quant.checkpoints import PackedLayout
from specdecodes.quant.spec import Scheme

LLAMA3_70B = LlamaConfig(
    architectures=["LlamaForCausalLM"],
    vocab_size=128256,
    hidden_size=8192,
    intermediate_size=28672,
    num_hidden_layers=80,
    num_attention_heads=64,
    num_key_value_heads=8,
    max_position_embeddings=8192,
)
NAMES = {torch.uint8: "U8", torch.float16: "F16", torch.float32: "F32"}


def hollow(folder: Path, config: LlamaConfig, layout: PackedLayout) -> Path:
    """A checkpoint in `layout` whose file is as long as it would be, and takes no room."""
    folder.mkdir()
    about = config.to_dict() | {"quantization_config": layout.config()}
    (folder / "config.json").write_text(json.dumps(about))
    spec, half = spec_of(config), torch.float16
    tensors = dict.fromkeys(
        ("model.embed_tokens.weight", "lm_head.weight"), ((spec.vocab_size, spec.hidden_size), half)
    )
    tensors["model.norm.weight"] = ((spec.hidden_size,), half)
    for layer in (f"model.layers.{index}." for index in range(spec.layers)):
        norms = {name: shape for name, shape in spec.layer_tensors().items() if "layernorm" in name}
        tensors |= {layer + name: (shape, half) for name, shape in norms.items()}
        for path, shape in spec.linears().items():
            needed = {name: part for name, part in layout.parts(*shape).items() if not part.optional}
            tensors |= {f"{layer}{path}.{name}": (part.shape, part.dtypes[0]) for name, part in needed.items()}
    header, end = {}, 0
    for name, (shape, dtype) in tensors.items():
        begin, end = end, end + math.prod(shape) * dtype.itemsize
        header[name] = {"dtype": NAMES[dtype], "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + end)
    return folder


@pytest.fixture(scope="module")
def llama3_70b(tmp_path_factory) -> Path:
    layout = PackedLayout("w4a32", Scheme("gptq4", 4, 128, regroups=False, grid="steps"))
    return hollow(tmp_path_factory.mktemp("large") / "llama3-70b-w4a16", LLAMA3_70B, layout)


def test_a_70b_target_in_4_bits_streams_under_24_gib(llama3_70b, untimed, monkeypatch):
    monkeypatch.setattr(placement, "measure", lambda files, device: Machine(3.0))
    monkeypatch.setattr(placement, "free_bytes", lambda device: 64 * 2**30)
    pipeline = pipelines.load("run.exp_quantized.baseline_llama3_70b_w4a16")
    pipeline = replace(pipeline, target=Target(str(llama3_70b), device="cpu"))
    whole, part = (plan_for(replace(pipeline, memory=Memory(device=size))) for size in ("48GiB", "24GiB"))
    assert not whole.streamed and sum(whole.device_bytes.values()) > 36 * 2**30
    assert 20 < len(part.streamed) < 60 and len(part.streamed) + len(part.resident) == 80
    assert sum(part.device_bytes.values()) <= 24 * 2**30
