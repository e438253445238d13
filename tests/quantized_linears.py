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


def smoothquant() -> tuple[dict[str, Any], Writer]:
    def write(rng: np.random.Generator, out: int, width: int) -> tuple[Tensors, np.ndarray]:
        stored, scales = rng.integers(-128, 128, (out, width)).astype(np.int8), scales_of(rng, out, bits=8)
        tensors = {"weight": torch.from_numpy(stored), "dequant_scale": torch.from_numpy(scales)}
        return tensors, stored.astype(np.float32) * scales.astype(np.float32)[:, None]

    return {"quant_method": "smoothquant"}, write


def marlin_words(codes: np.ndarray, interleave: list[int]) -> Tensor:
    """[in, out] codes below 16 to [in / 16, out * 2] int32: tiles of 16 x 16 in the order of tensor cores' lanes."""
    places = []
    for lane in range(32):
        inside = [16 * (4 * (lane % 4) + row) + lane // 4 + 8 * block for block in range(2) for row in range(4)]
        places += [256 * tile + inside[place] for tile in range(4) for place in interleave]
    width, out = codes.shape
    tiles = np.concatenate(
        [codes[i : i + 16, j : j + 16].reshape(-1) for i in range(0, width, 16) for j in range(0, out, 16)]
    )
    return words_of(tiles.reshape(-1, 1024)[:, places].reshape(width // 16, out * 16), 4)


def qqq(group: int = 0) -> tuple[dict[str, Any], Writer]:
    config = {"quant_method": "qqq", "wbits": 4, "group_size": group or -1}
    single = [2 * i + j for i in range(4) for j in (0, 1, 8, 9, 16, 17, 24, 25)]
    several = [i + 8 * j for i in range(8) for j in range(8)]

    def write(rng: np.random.Generator, out: int, width: int) -> tuple[Tensors, np.ndarray]:
        channel = scales_of(rng, out, bits=8).astype(np.float32)
        if not group:
            values = rng.integers(-7, 8, (width, out))
            stored = (channel / 16).reshape(-1, 32)[:, single].reshape(1, -1)
            tensors = {"B": marlin_words(values & 15, [4, 0, 5, 1, 6, 2, 7, 3])}
            tensors |= {"s_channel": torch.from_numpy(stored), "s_group": torch.zeros(0, dtype=torch.float16)}
            return tensors, (values.astype(np.float32) * channel).T
        codes, scales = rng.integers(0, 16, (width, out)), rng.uniform(4, 15, (width // group, out)).astype(np.float16)
        levels = np.rint((codes - 8) * scales.astype(np.float64)[np.arange(width) // group])
        tensors = {
            "B": marlin_words(codes, [0, 2, 4, 6, 1, 3, 5, 7]),
            "s_channel": torch.from_numpy(channel.reshape(-1, 32)[:, single].reshape(1, -1)),
            "s_group": torch.from_numpy(scales.reshape(-1, 64)[:, several].reshape(width // group, out)),
        }
        return tensors, (levels.astype(np.float32) * channel).T

    return config, write


def qserve_bytes(codes: np.ndarray) -> Tensor:
    """[out, in] codes below 16 to [out, in / 2] int8: blocks of 32 x 32, outputs 16 apart in one byte."""
    stored = []
    for row in range(0, codes.shape[0], 32):
        for column in range(0, codes.shape[1], 32):
            for lane, quarter, half, eight in np.ndindex(8, 4, 2, 2):
                first = column + 16 * half + 4 * quarter
                pair = [codes[row + 16 * top + 8 * eight + lane, first : first + 4] for top in range(2)]
                stored.append(pair[0] | pair[1] << 4)
    return torch.from_numpy(np.concatenate(stored).astype(np.uint8).view(np.int8).reshape(len(codes), -1))


def qoq(group: int = 0, packer: str = "qserve") -> tuple[dict[str, Any], Writer]:
    config = {"quant_method": "qoq", "wbits": 4, "group_size": group or -1, "packer": packer}
    lanes = [8 * part + lane for lane in range(8) for part in range(4)]
    if packer != "qserve":
        lanes = [16 * top + 8 * part + lane for top in range(2) for lane in range(8) for part in range(2)]

    def write(rng: np.random.Generator, out: int, width: int) -> tuple[Tensors, np.ndarray]:
        codes = rng.integers(0, 16, (out, width))
        if not group:
            scales = scales_of(rng, out)
            zeros = (rng.integers(0, 16, out) * scales.astype(np.float32)).astype(np.float16)
            tensors = {"s1_scales": torch.from_numpy(scales), "s1_szeros": torch.from_numpy(zeros)}
            weight = codes.astype(np.float32) * scales.astype(np.float32)[:, None] - zeros.astype(np.float32)[:, None]
            return tensors | {"qweight": qserve_bytes(codes)}, weight
        scales = scales_of(rng, out, bits=8)
        steps, zeros = rng.integers(1, 9, (out, width // group)), rng.integers(4, 12, (out, width // group))
        index = np.arange(width) // group
        levels = (codes - zeros[:, index]) * steps[:, index]
        second = [part.T.reshape(-1, out // 32, 32)[:, :, lanes].reshape(-1, out) for part in (steps, -zeros * steps)]
        tensors = {"qweight": qserve_bytes(codes), "s1_scales": torch.from_numpy(scales)}
        tensors |= {
            name: torch.from_numpy(part.astype(np.int8))
            for name, part in zip(("s2_scales", "s2_zeros"), second, strict=True)
        }
        return tensors, levels.astype(np.float32) * scales.astype(np.float32)[:, None]

    return config, write


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
