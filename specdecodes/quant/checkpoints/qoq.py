"""QoQ checkpoints, which DeepCompressor writes for QServe: 4-bit weights, inputs in 8 bits, a token at a time.

`qweight` [out, in / 2] int8 holds codes in the order of its GPU kernel: blocks of 32 x 32, a tensor core's lanes
inside, outputs 16 apart in one byte. In groups of 128 an 8-bit level is `code * s2_scales + s2_zeros` (both
[groups, out] int8, the zeros already negative and scaled, the sum taken in 8 bits), and a weight `level * s1_scales`
([out] fp16): those levels are kept, so a weight takes 8 bits. With one scale a channel it is
`code * s1_scales - s1_szeros` ([out] fp16). Inputs are whole numbers in steps of 1/127 of the token's largest; their
arithmetic is done in float32 here.

QServe is told the format on its command line; where config.json does not have it (`"quantization_config":
{"quant_method": "qoq", "wbits": 4, "group_size": 128}`, or -1), the tensors tell. What they cannot tell: the
converter of DeepCompressor itself, from 0.1.0 on, puts `s2_*` into an order that QServe's kernel does not read. There,
have `"packer": "deepcompressor-0.1"` beside the rest.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from specdecodes.errors import CheckpointError
from specdecodes.quant.checkpoints.layout import Fields, StoredPart, groups_of
from specdecodes.quant.codes import Codes, pack
from specdecodes.quant.grids import CENTRED, STEPS
from specdecodes.quant.spec import Scheme

BLOCK, GROUP = 32, 128
PACKERS = {"qserve": 4, "deepcompressor-0.1": 2}  # outputs of a lane whose second scales lie side by side
_BYTE, _HALF = (torch.int8,), (torch.float16,)


@dataclass(frozen=True)
class QoqLayout:
    """`group`: 128, or 0 for one scale a channel. `side`: as in PACKERS."""

    group: int
    side: int = PACKERS["qserve"]
    marker: str = "qweight"

    @classmethod
    def of(cls, fields: Fields) -> QoqLayout:
        return cls(fields.four_bits(GROUP), PACKERS[fields.one_of("packer", tuple(PACKERS), "qserve")])

    def scheme(self, dtypes: Mapping[str, torch.dtype]) -> Scheme:
        bits, grid = (8, f"{CENTRED}8") if self.group else (4, STEPS)
        name = "qoq-g128" if self.group else "qoq"
        return Scheme(name, bits, 0, activations="int8-row", regroups=False, grid=grid, wide=True)

    def parts(self, out_features: int, in_features: int) -> dict[str, StoredPart]:
        if out_features % BLOCK or in_features % BLOCK:
            raise CheckpointError(
                "quantization_config.quant_method in config.json is qoq, which holds linears of whole blocks of 32 "
                f"outputs and inputs, not {out_features} and {in_features}."
            )
        found = {
            "qweight": StoredPart((out_features, in_features // 2), _BYTE),
            "s1_scales": StoredPart((out_features,), _HALF),
        }
        if not self.group:
            return found | {"s1_szeros": StoredPart((out_features,), _HALF)}
        groups = groups_of(in_features, self.group, "quantization_config.group_size")
        second = StoredPart((groups, out_features), _BYTE)
        return found | {"s2_scales": second, "s2_zeros": second}

    def read(self, parts: Mapping[str, Tensor], name: str) -> Codes:
        codes, scale = _in_place(parts["qweight"]), parts["s1_scales"].float()[:, None].contiguous()
        if not self.group:
            shift = -parts["s1_szeros"].float()[:, None]
            return Codes(pack(codes, 4), scale, shift=shift.contiguous())
        steps, zeros = (_by_output(parts[part], self.side).int()[..., None] for part in ("s2_scales", "s2_zeros"))
        levels = codes.int().view(len(codes), -1, self.group) * steps + zeros
        return Codes(((levels + 128) & 255).to(torch.uint8).flatten(1), scale, None, 8, f"{CENTRED}8")


def _in_place(stored: Tensor) -> Tensor:
    """[out, in / 2] int8 to codes [out, in] uint8."""
    out, width = stored.shape[0], stored.shape[1] * 2
    # Axes: blocks of outputs and of inputs, lane and its quarter, half of the inputs, eight outputs, four inputs.
    lanes = stored.view(torch.uint8).view(out // BLOCK, width // BLOCK, 8, 4, 2, 2, 4)
    halves = torch.stack([lanes & 15, lanes >> 4])
    return halves.permute(1, 0, 6, 3, 2, 5, 4, 7).reshape(out, width)


def _by_output(values: Tensor, side: int) -> Tensor:
    """[groups, out] in the order of eight lanes of `side` outputs to [out, groups]."""
    groups, out = values.shape
    return values.view(groups, -1, 8, side).transpose(2, 3).reshape(groups, out).t()
