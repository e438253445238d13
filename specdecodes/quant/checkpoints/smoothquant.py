"""SmoothQuant checkpoints: 8-bit weights of one scale a channel, inputs in 8 bits, a token at a time.

`weight` [out, in] int8 and `dequant_scale` [out], as QServe's 8-bit linears have them; a weight is the product. What
was smoothed is in the norms already. Inputs are whole numbers in steps of 1/127 of the token's largest, in float32.
llm-compressor writes smoothed models as compressed-tensors, which have a reader of their own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from specdecodes.quant.checkpoints.layout import SCALES, Fields, StoredPart, groups_of
from specdecodes.quant.codes import Codes
from specdecodes.quant.grids import CENTRED
from specdecodes.quant.spec import Scheme


@dataclass(frozen=True)
class SmoothQuantLayout:
    marker: str = "dequant_scale"

    @classmethod
    def of(cls, fields: Fields) -> SmoothQuantLayout:
        for bits in ("wbits", "abits"):
            fields.one_of(bits, (8,), 8)
        fields.one_of("group_size", (-1, None))
        fields.one_of("activation", ("per-token",), "per-token")
        return cls()

    def scheme(self, dtypes: Mapping[str, torch.dtype]) -> Scheme:
        return Scheme("smoothquant", 8, 0, activations="int8-row", regroups=False, grid=f"{CENTRED}8", wide=True)

    def parts(self, out_features: int, in_features: int) -> dict[str, StoredPart]:
        groups_of(in_features, 0, "config.json")
        return {
            "weight": StoredPart((out_features, in_features), (torch.int8,)),
            "dequant_scale": StoredPart((out_features,), SCALES, shapes=((out_features, 1),)),
        }

    def read(self, parts: Mapping[str, Tensor], name: str) -> Codes:
        scale = parts["dequant_scale"].float().view(-1, 1).contiguous()
        return Codes(parts["weight"].view(torch.uint8) ^ 128, scale, None, 8, f"{CENTRED}8")
