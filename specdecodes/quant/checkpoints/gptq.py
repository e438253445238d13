"""GPTQ checkpoints, as AutoGPTQ, GPTQModel and Transformers write them.

`qweight` [in * bits / 32, out] int32 holds the codes of a column of inputs, the lowest bits first; `qzeros`
[groups, out * bits / 32] the zero-points likewise, `scales` [groups, out], and `g_idx` [in] the group of each input,
which act-order (`desc_act`) mixes. A weight is `(code - zero) * scale`. In the first version of the format (`gptq`)
what is stored is the zero-point less 1, within its bits; in `gptq_v2` the zero-point itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from specdecodes.errors import CheckpointError
from specdecodes.quant.checkpoints.layout import SCALES, Fields, StoredPart, column_order, groups_of, unpack_bytes
from specdecodes.quant.codes import Codes, pack
from specdecodes.quant.grids import STEPS
from specdecodes.quant.spec import Scheme


@dataclass(frozen=True)
class GptqLayout:
    """`stored_less`: what the stored zero-points lack, 1 or 0."""

    bits: int
    group: int
    symmetric: bool
    stored_less: int
    marker: str = "qweight"

    @classmethod
    def of(cls, fields: Fields) -> GptqLayout:
        fields.unset("dynamic", "is_marlin_format", "lm_head", "rotation")  # the last one turns inputs of down_proj
        version = fields.one_of("checkpoint_format", ("gptq", "gptq_v2"), "gptq")
        fields.one_of("pack_dtype", ("int32",), "int32")
        return cls(
            bits=fields.one_of("bits", (2, 4, 8)),
            group=fields.group("group_size", 128),
            symmetric=fields.one_of("sym", (True, False), True),
            stored_less=1 if version == "gptq" else 0,
        )

    def scheme(self, dtypes: Mapping[str, torch.dtype]) -> Scheme:
        wide = dtypes["scales"] == torch.float32
        return Scheme(f"gptq{self.bits}", self.bits, self.group, regroups=False, grid=STEPS, wide=wide)

    def parts(self, out_features: int, in_features: int) -> dict[str, StoredPart]:
        groups, words = groups_of(in_features, self.group, "quantization_config.group_size"), 32 // self.bits
        return {
            "qweight": StoredPart((in_features // words, out_features), (torch.int32,)),
            "qzeros": StoredPart((groups, out_features // words), (torch.int32,)),
            "scales": StoredPart((groups, out_features), SCALES),
            "g_idx": StoredPart((in_features,), (torch.int32, torch.int64), optional=True),
        }

    def read(self, parts: Mapping[str, Tensor], name: str) -> Codes:
        codes = unpack_bytes(parts["qweight"].t(), self.bits)
        zeros = (unpack_bytes(parts["qzeros"], self.bits) + self.stored_less) & (2**self.bits - 1)
        if self.symmetric and bool((zeros != 2 ** (self.bits - 1)).any()):
            raise CheckpointError(
                f"{name}.qzeros has zero-points other than {2 ** (self.bits - 1)}, which quantization_config.sym in "
                "config.json rules out; sym or checkpoint_format is wrong there."
            )
        order = None
        if "g_idx" in parts:
            order = column_order(parts["g_idx"], self.group, codes.shape[1], f"{name}.g_idx")
        if order is not None:
            codes = codes.index_select(1, order)
        scale, zero = parts["scales"].t().float().contiguous(), zeros.t().float().contiguous()
        return Codes(pack(codes, self.bits), scale, zero, self.bits, order=order)
