"""Writers of quantized linears as the formats are published, each with the weight that it dequantizes to.

Written with numpy from the formats' definitions, word by word, and sharing nothing with the readers that they test.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

Tensors = dict[str, Tensor]
Writer = Callable[[np.random.Generator, int, int], tuple[Tensors, np.ndarray]]


def words_of(codes: np.ndarray, bits: int, places: list[int] | None = None) -> Tensor:
    """[n, m] codes to [n, m * bits / 32] int32; code i of a word goes to place `places[i]` in it."""
    per = 32 // bits
    words = np.zeros((codes.shape[0], codes.shape[1] // per), dtype=np.uint32)
    for i in range(per):
        words |= codes[:, i::per].astype(np.uint32) << np.uint32(bits * (places[i] if places else i))
    return torch.from_numpy(words.view(np.int32).copy())


def scales_of(rng: np.random.Generator, *shape: int, bits: int = 4) -> np.ndarray:
    return (rng.uniform(0.5, 1.5, shape) * 0.25 / 2 ** (bits - 1)).astype(np.float16)


def gptq(
    bits: int = 4, group: int = 32, *, symmetric: bool = True, act_order: bool = False, version: int = 1
) -> tuple[dict[str, Any], Writer]:
    config = {"quant_method": "gptq", "bits": bits, "group_size": group or -1, "sym": symmetric, "desc_act": act_order}
    config["checkpoint_format"] = "gptq" if version == 1 else "gptq_v2"

    def write(rng: np.random.Generator, out: int, width: int) -> tuple[Tensors, np.ndarray]:
        size = group or width
        codes = rng.integers(0, 2**bits, (width, out))
        zeros = rng.integers(0, 2**bits, (width // size, out))
        if symmetric:
            zeros[:] = 2 ** (bits - 1)
        scales = scales_of(rng, width // size, out, bits=bits)
        index = np.arange(width) // size
        if act_order:
            # One order for all linears of an input, as the importance of inputs is the same for them.
            index = np.random.default_rng(width).permutation(index)
        weight = (codes - zeros[index]).astype(np.float32) * scales.astype(np.float32)[index]
        stored = zeros if version == 2 else (zeros - 1) % 2**bits
        tensors = {
            "qweight": words_of(codes.T, bits).t().contiguous(),
            "qzeros": words_of(stored, bits),
            "scales": torch.from_numpy(scales),
            "g_idx": torch.from_numpy(index.astype(np.int32)),
        }
        return tensors, weight.T

    return config, write


def awq(group: int = 32) -> tuple[dict[str, Any], Writer]:
    config = {"quant_method": "awq", "bits": 4, "group_size": group, "zero_point": True, "version": "gemm"}

    def write(rng: np.random.Generator, out: int, width: int) -> tuple[Tensors, np.ndarray]:
        codes, zeros = rng.integers(0, 16, (width, out)), rng.integers(0, 16, (width // group, out))
        scales = scales_of(rng, width // group, out)
        index = np.arange(width) // group
        weight = (codes - zeros[index]).astype(np.float32) * scales.astype(np.float32)[index]
        places = [[0, 2, 4, 6, 1, 3, 5, 7].index(i) for i in range(8)]
        tensors = {"qweight": words_of(codes, 4, places), "qzeros": words_of(zeros, 4, places)}
        return tensors | {"scales": torch.from_numpy(scales)}, weight.T

    return config, write


def ct_config(form: str, weights: dict[str, Any], inputs: dict[str, Any] | None = None) -> dict[str, Any]:
    group = {"targets": ["Linear"], "weights": weights, "input_activations": inputs, "output_activations": None}
    return {
        "quant_method": "compressed-tensors",
        "format": form,
        "config_groups": {"group_0": group},
        "ignore": ["lm_head"],
        "kv_cache_scheme": None,
        "quantization_status": "compressed",
    }


def ct_packed(
    bits: int = 4, group: int = 32, *, symmetric: bool = True, act_order: bool = False
) -> tuple[dict[str, Any], Writer]:
    strategy = "group" if group else "channel"
    weights = {
        "num_bits": bits,
        "type": "int",
        "symmetric": symmetric,
        "strategy": strategy,
        "group_size": group or None,
    }

    def write(rng: np.random.Generator, out: int, width: int) -> tuple[Tensors, np.ndarray]:
        size, half = group or width, 2 ** (bits - 1)
        values = rng.integers(-half, half, (out, width))
        zeros = np.zeros((out, width // size), int) if symmetric else rng.integers(-half, half, (out, width // size))
        scales = scales_of(rng, out, width // size, bits=bits)
        index = np.arange(width) // size
        if act_order:
            index = np.random.default_rng(width).permutation(index)
        weight = (values - zeros[:, index]).astype(np.float32) * scales.astype(np.float32)[:, index]
        tensors = {
            "weight_packed": words_of(values + half, bits),
            "weight_scale": torch.from_numpy(scales),
            "weight_shape": torch.tensor([out, width]),
        }
        if act_order:
            tensors["weight_g_idx"] = torch.from_numpy(index.astype(np.int32))
        if not symmetric:
            tensors["weight_zero_point"] = words_of((zeros + half).T, bits).t().contiguous()
        return tensors, weight

    return ct_config("pack-quantized", weights), write


def ct_plain(
    kind: str = "int", *, strategy: str = "channel", dynamic: bool | None = True
) -> tuple[dict[str, Any], Writer]:
    """`dynamic` None: inputs are not rounded."""
    weights = {"num_bits": 8, "type": kind, "symmetric": True, "strategy": strategy}
    rounding = {"num_bits": 8, "type": kind, "symmetric": True, "dynamic": bool(dynamic)}
    inputs = None if dynamic is None else rounding | {"strategy": "token" if dynamic else "tensor"}

    def write(rng: np.random.Generator, out: int, width: int) -> tuple[Tensors, np.ndarray]:
        scales = scales_of(rng, *((out, 1) if strategy == "channel" else (1,)), bits=8).astype(np.float32)
        if kind == "int":
            stored = torch.from_numpy(rng.integers(-128, 128, (out, width)).astype(np.int8))
        else:
            stored = torch.from_numpy(rng.normal(0, 50, (out, width)).astype(np.float32)).to(torch.float8_e4m3fn)
        weight = stored.float().numpy() * scales
        tensors = {"weight": stored, "weight_scale": torch.from_numpy(scales)}
        if dynamic is False:
            tensors["input_scale"] = torch.tensor([0.03])
        return tensors, weight

    return ct_config("int-quantized" if kind == "int" else "float-quantized", weights, inputs), write


@dataclass(frozen=True)
class Written:
    """A checkpoint whose linears are quantized, and what each dequantizes to, by the name of its full weight."""

    folder: Path
    weights: dict[str, Tensor]


def write_checkpoint(source: Path, folder: Path, config: dict[str, Any], write: Writer, *, shards: int = 1) -> Written:
    """`source` with linears of random codes in place of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in source.iterdir():
        if path.suffix != ".safetensors":
            shutil.copy(path, folder)
    about = json.loads((source / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(about | {"quantization_config": config}))
    rng, weights, tensors = np.random.default_rng(5), {}, {}
    for name, tensor in sorted(load_file(source / "model.safetensors").items()):
        if not name.endswith("_proj.weight"):
            tensors[name] = tensor
            continue
        parts, weight = write(rng, *tensor.shape)
        weights[name] = torch.from_numpy(np.ascontiguousarray(weight))
        tensors |= {f"{name.removesuffix('weight')}{part}": value for part, value in parts.items()}
    save_shards(folder, tensors, shards)
    return Written(folder, weights)


def save_shards(folder: Path, tensors: Tensors, shards: int) -> None:
    if shards == 1:
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})
        return
    names = sorted(tensors)
    index = {}
    for shard in range(shards):
        file = f"model-{shard + 1:05}-of-{shards:05}.safetensors"
        part = names[shard * len(names) // shards : (shard + 1) * len(names) // shards]
        save_file({name: tensors[name] for name in part}, folder / file, {"format": "pt"})
        index |= dict.fromkeys(part, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
