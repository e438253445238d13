"""QQQ checkpoints: 4-bit weights that become 8-bit integers, and inputs in 8 bits, a token at a time.

`B` [in / 16, 2 * out] int32 holds codes in the order of its GPU kernel: tiles of 16 x 16, four of them, a tensor core's
lanes inside. With one scale a channel a code is a signed integer q and a weight `q * 16 * s_channel`; in groups of 128
it is q + 8, an 8-bit level is q * `s_group` (fp16) rounded to the nearest, halves to the even one, and a weight
`level * s_channel`. Both scales come in the kernel's order too. Inputs are whole numbers in steps of 1/127 of the
token's largest; their arithmetic is done in float32 here. Those levels are kept, so a weight takes 8 bits.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from specdecodes.errors import CheckpointError
from specdecodes.quant.checkpoints.layout import Fields, StoredPart, groups_of, unpack_bytes
from specdecodes.quant.codes import Codes
from specdecodes.quant.grids import CENTRED
from specdecodes.quant.spec import Scheme

TILE, TILES, GROUP = 16, 4, 128
CHANNEL_PLACES, GROUP_PLACES = (4, 0, 5, 1, 6, 2, 7, 3), (0, 2, 4, 6, 1, 3, 5, 7)  # of a word's eight codes
_FLOAT, _HALF = (torch.float32,), (torch.float16,)


@dataclass(frozen=True)
class QqqLayout:
    """`group`: 128, or 0 for one scale a channel."""

    group: int
    marker: str = "B"

    @classmethod
    def of(cls, fields: Fields) -> QqqLayout:
        return cls(fields.four_bits(GROUP))

    def scheme(self, dtypes: Mapping[str, torch.dtype]) -> Scheme:
        return Scheme(
            "qqq-g128" if self.group else "qqq", 8, 0, activations="int8-row", regroups=False, grid=f"{CENTRED}8"
        )

    def parts(self, out_features: int, in_features: int) -> dict[str, StoredPart]:
        if out_features % (TILE * TILES) or in_features % TILE:
            raise CheckpointError(
                f"quantization_config.quant_method in config.json is qqq, which holds linears of whole tiles of 64 "
                f"outputs and 16 inputs, not {out_features} and {in_features}."
            )
        found = {
            "B": StoredPart((in_features // TILE, out_features * 2), (torch.int32,)),
            "s_channel": StoredPart((1, out_features), _FLOAT),
        }
        if self.group:
            groups = groups_of(in_features, self.group, "quantization_config.group_size")
            return found | {"s_group": StoredPart((groups, out_features), _HALF)}
        return found | {"s_group": StoredPart((0,), _HALF, optional=True)}

    def read(self, parts: Mapping[str, Tensor], name: str) -> Codes:
        codes = _in_place(parts["B"], GROUP_PLACES if self.group else CHANNEL_PLACES)  # [in, out]
        channel = parts["s_channel"].view(-1, 4, 4, 2).transpose(1, 2).reshape(1, -1)
        if self.group:
            group = parts["s_group"].view(len(parts["s_group"]), -1, 8, 8).transpose(2, 3).flatten(1).float()
            levels = torch.round((codes.float() - 8).view(len(group), self.group, -1) * group[:, None]).flatten(0, 1)
            levels = (levels.int() + 128) & 255
        else:
            levels, channel = ((codes ^ 8).int() - 8) + 128, channel * 16
        scale = channel.t().contiguous()
        return Codes(levels.t().to(torch.uint8).contiguous(), scale, None, 8, f"{CENTRED}8")


def _in_place(words: Tensor, places: tuple[int, ...]) -> Tensor:
    """[in / 16, 2 * out] int32 to codes [in, out] uint8."""
    stored = unpack_bytes(words, 4)
    lane, tile, place = torch.arange(32).view(-1, 1, 1), torch.arange(TILES).view(1, -1, 1), torch.tensor(places)
    row, column = 4 * (lane % 4) + place % 4, lane // 4 + 8 * (place // 4)
    order = (TILE * TILE * tile + TILE * row + column).flatten()
    chunks = stored.view(-1, len(order))
    codes = torch.empty_like(chunks).index_copy_(1, order, chunks)
    tiled = codes.view(len(words), -1, TILE, TILE)  # tiles along the inputs, along the outputs, and inside
    return tiled.transpose(1, 2).reshape(len(words) * TILE, -1)
