"""Checkpoints of compressed-tensors, which llm-compressor writes: `pack-quantized`, `int-quantized`, `float-quantized`.

Packed: `weight_packed` [out, in * bits / 32] int32 with integers around zero plus half of all codes, the lowest bits
first; `weight_scale` [out, groups]; where weights are not symmetric `weight_zero_point` [out * bits / 32, groups]
int32, packed likewise along the outputs; with act-order `weight_g_idx` [in]. The others: `weight` [out, in] in int8 or
e4m3 and `weight_scale`, of the whole tensor, of each output or of each group. A weight is `(integer - zero) * scale`.

Inputs, where they are rounded: token by token, an integer's step being 2/255 of the largest, or in the fixed step
`input_scale`. That arithmetic is done in float32 here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from specdecodes.errors import CheckpointError
from specdecodes.quant.checkpoints.layout import SCALES, Fields, StoredPart, column_order, groups_of, unpack_bytes
from specdecodes.quant.codes import Codes, pack
from specdecodes.quant.grids import CENTRED, E4M3, STEPS
from specdecodes.quant.spec import Scheme

FORMATS = ("pack-quantized", "int-quantized", "float-quantized")
STRATEGIES = {"pack-quantized": ("channel", "group")}
FUSED = ("weight_input", "weight_output")
_PLAIN = ("tensor", "channel", "group")
_INPUTS = {
    ("int", True): "int8-full",
    ("int", False): "int8-fixed",
    ("float", True): "fp8",
    ("float", False): "fp8-fixed",
}


@dataclass(frozen=True)
class CompressedTensorsLayout:
    """`activations` as in Scheme. `tensor`: one scale for the whole weight."""

    form: str
    bits: int
    group: int
    symmetric: bool
    activations: str
    tensor: bool = False

    @classmethod
    def of(cls, fields: Fields) -> CompressedTensorsLayout:
        fields.unset("kv_cache_scheme")
        _check_transforms(fields)
        if fields.values.get("sparsity_config"):
            fields.section("sparsity_config").one_of("format", ("dense",), "dense")
        groups = fields.section("config_groups")
        if len(groups.values) != 1:
            raise CheckpointError(
                f"{groups.at} in config.json has {len(groups.values)} groups of schemes; checkpoints with one are read."
            )
        one = groups.section(next(iter(groups.values)))
        form = fields.one_of("format", FORMATS, one.values.get("format"))
        weights = one.section("weights")
        floats = form == "float-quantized"
        weights.one_of("type", ("float",) if floats else ("int",))
        strategy = weights.one_of("strategy", STRATEGIES.get(form, _PLAIN))
        packed = form == "pack-quantized"
        return cls(
            form=form,
            bits=weights.one_of("num_bits", (4, 8) if packed else (8,)),
            group=weights.group("group_size") if strategy == "group" else 0,
            symmetric=weights.one_of("symmetric", (True, False) if packed else (True,)),
            activations=_activations(one),
            tensor=strategy == "tensor",
        )

    @property
    def marker(self) -> str:
        return "weight_packed" if self.form == "pack-quantized" else "weight_scale"

    def scheme(self, dtypes: Mapping[str, torch.dtype]) -> Scheme:
        wide = dtypes["weight_scale"] == torch.float32
        inputs = {"": 16}.get(self.activations, 8)
        name = "ct-fp8" if self._grid == E4M3 else f"ct-w{self.bits}a{inputs}"
        return Scheme(
            name, self.bits, self.group, activations=self.activations, regroups=False, grid=self._grid, wide=wide
        )

    @property
    def _grid(self) -> str:
        return {"pack-quantized": STEPS, "int-quantized": f"{CENTRED}8", "float-quantized": E4M3}[self.form]

    def parts(self, out_features: int, in_features: int) -> dict[str, StoredPart]:
        groups = groups_of(in_features, self.group, "quantization_config.config_groups.*.weights.group_size")
        scales = StoredPart((out_features, groups), SCALES, shapes=((out_features,),) if groups == 1 else ())
        if self.tensor:
            scales = StoredPart((1,), SCALES, shapes=((), (1, 1)))
        found = {"weight_scale": scales}
        if self.activations.endswith("fixed"):
            found["input_scale"] = StoredPart((1,), SCALES, shapes=((),))
        if self.form != "pack-quantized":
            dtype = torch.float8_e4m3fn if self._grid == E4M3 else torch.int8
            return found | {"weight": StoredPart((out_features, in_features), (dtype,))}
        words = 32 // self.bits
        found |= {
            "weight_packed": StoredPart((out_features, -(-in_features // words)), (torch.int32,)),
            "weight_shape": StoredPart((2,), (torch.int64, torch.int32), optional=True),
            "weight_g_idx": StoredPart((in_features,), (torch.int32, torch.int64), optional=True),
        }
        if not self.symmetric:
            found["weight_zero_point"] = StoredPart((-(-out_features // words), groups), (torch.int32,))
        return found

    def read(self, parts: Mapping[str, Tensor], name: str) -> Codes:
        step = parts["input_scale"].float().view(1) if "input_scale" in parts else None
        if self.form == "pack-quantized":
            return self._read_packed(parts, step, name)
        weight = parts["weight"]
        scale = parts["weight_scale"].float().reshape(-1, 1) if not self.group else parts["weight_scale"].float()
        scale = scale.expand(len(weight), -1).contiguous()
        codes = weight.view(torch.uint8)
        return Codes(codes if self._grid == E4M3 else codes ^ 128, scale, None, 8, self._grid, step=step)

    def _read_packed(self, parts: Mapping[str, Tensor], step: Tensor | None, name: str) -> Codes:
        scale = parts["weight_scale"].float()
        scale = scale.view(len(scale), -1).contiguous()
        codes, order = unpack_bytes(parts["weight_packed"], self.bits), None
        if "weight_shape" in parts and parts["weight_shape"].tolist() != list(codes.shape):
            raise CheckpointError(
                f"{name}.weight_shape is {parts['weight_shape'].tolist()}; the model's config calls for "
                f"{list(codes.shape)}."
            )
        if "weight_g_idx" in parts:
            order = column_order(parts["weight_g_idx"], self.group, codes.shape[1], f"{name}.weight_g_idx")
        if order is not None:
            codes = codes.index_select(1, order)
        if self.symmetric:
            zero = torch.full_like(scale, 2.0 ** (self.bits - 1))
        else:
            zeros = unpack_bytes(parts["weight_zero_point"].t(), self.bits)
            zero = zeros[:, : len(codes)].t().float().contiguous()
        return Codes(pack(codes, self.bits), scale, zero, self.bits, order=order, step=step)


def _activations(one: Fields) -> str:
    """What inputs are rounded to, as in Scheme."""
    one.unset("output_activations")
    if one.values.get("input_activations") is None:
        return ""
    inputs = one.section("input_activations")
    inputs.one_of("num_bits", (8,))
    inputs.one_of("symmetric", (True,), True)
    dynamic = inputs.one_of("dynamic", (True, False), False)
    inputs.one_of("strategy", ("token",) if dynamic else ("tensor",))
    return _INPUTS[inputs.one_of("type", ("int", "float"), "int"), dynamic]


def _check_transforms(fields: Fields) -> None:
    """Rotations that are in the weights (SpinQuant's R1 and R2) ask for nothing; those of inputs are refused."""
    if not fields.values.get("transform_config"):
        return
    groups = fields.section("transform_config").section("config_groups")
    for name in groups.values:
        for applied in groups.section(name).values.get("apply", ()):
            Fields(applied, f"{groups.at}.{name}.apply").one_of("location", FUSED)
