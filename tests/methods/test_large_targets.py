"""What is planned for targets of real size, from headers over a hole in the place of the weights."""

from __future__ import annotations

import json
import math
import struct
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from transformers import LlamaConfig, PretrainedConfig, Qwen2Config

from specdecodes import pipelines
from specdecodes.config import Memory, Pipeline, Target
from specdecodes.errors import BudgetError
from specdecodes.methods import plan_for, site
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
QWEN25 = {"architectures": ["Qwen2ForCausalLM"], "vocab_size": 152064, "num_key_value_heads": 8}
QWEN25_14B = Qwen2Config(
    **QWEN25, hidden_size=5120, intermediate_size=13824, num_hidden_layers=48, num_attention_heads=40
)
QWEN25_7B = Qwen2Config(
    **QWEN25 | {"num_key_value_heads": 4},
    hidden_size=3584,
    intermediate_size=18944,
    num_hidden_layers=28,
    num_attention_heads=28,
)
NAMES = {torch.uint8: "U8", torch.float16: "F16", torch.bfloat16: "BF16", torch.float32: "F32"}


def hollow(folder: Path, config: PretrainedConfig, layout: PackedLayout | None) -> Path:
    """A checkpoint in `layout`, or in 16 bits, whose file is as long as it would be, and takes no room."""
    folder.mkdir()
    about = config.to_dict() | ({"quantization_config": layout.config()} if layout else {})
    (folder / "config.json").write_text(json.dumps(about))
    spec, half = spec_of(config), torch.float16 if layout else torch.bfloat16
    tensors = dict.fromkeys(
        ("model.embed_tokens.weight", "lm_head.weight"), ((spec.vocab_size, spec.hidden_size), half)
    )
    tensors["model.norm.weight"] = ((spec.hidden_size,), half)
    for layer in (f"model.layers.{index}." for index in range(spec.layers)):
        kept = {name: shape for name, shape in spec.layer_tensors().items() if layout is None or "layernorm" in name}
        tensors |= {layer + name: (shape, half) for name, shape in kept.items()}
        for path, shape in spec.linears().items() if layout else ():
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


@pytest.fixture
def on_a_gpu(monkeypatch, untimed):
    """`on_a_gpu(triton="")`: plans are for one, beside 64 GiB of host memory; `triton` is why that is missing."""
    monkeypatch.setattr(placement, "measure", lambda files, device: Machine(3.0, host_gbps=20.0))
    monkeypatch.setattr(placement, "free_bytes", lambda device: 64 * 2**30)
    monkeypatch.setattr(site, "find_device", lambda name: torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(multi_processor_count=64))

    def use(triton: str = "") -> None:
        for module in (site, placement):
            monkeypatch.setattr(module, "missing_triton", lambda: triton)

    use()
    return use


def subspec(folder: Path, name: str, size: str) -> Pipeline:
    pipeline = pipelines.load(f"run.exp_offloading.subspec_sd_qwen_{name}")
    return replace(pipeline, target=Target(str(folder)), memory=Memory(device=size, compress="off"))


def test_a_14b_target_fits_12_gb_without_its_embedding(on_a_gpu, tmp_path):
    pipeline = subspec(hollow(tmp_path / "14b", QWEN25_14B, None), "14b", "12GB")
    plan = plan_for(pipeline)
    assert plan.rows_from_host and plan.host_bytes["embedding"] == 152064 * 5120 * 2
    assert plan.device_bytes["head"] == (152064 + 1) * 5120 * 2
    assert sum(plan.device_bytes.values()) <= 12e9
    on_a_gpu("there is no triton")
    with pytest.raises(BudgetError, match="embedding and head"):
        plan_for(pipeline)


def test_a_7b_target_keeps_more_layers_without_its_embedding(on_a_gpu, tmp_path):
    pipeline = subspec(hollow(tmp_path / "7b", QWEN25_7B, None), "7b", "8GB")
    apart = plan_for(pipeline)
    on_a_gpu("there is no triton")
    whole = plan_for(pipeline)
    assert ("embedding", "in device memory, not in host RAM: there is no triton", "") in whole.rows()
    assert apart.rows_from_host and not whole.rows_from_host
    assert len(apart.resident) > len(whole.resident) + 1
