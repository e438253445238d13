"""AWQ checkpoints in the `gemm` layout, as AutoAWQ writes them.

`qweight` [in, out / 8] int32, `qzeros` [groups, out / 8] int32, `scales` [groups, out]: words of eight outputs, whose
codes lie in the order 0, 2, 4, 6, 1, 3, 5, 7 from the lowest bits on. A weight is `(code - zero) * scale`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from specdecodes.quant.checkpoints.layout import SCALES, Fields, StoredPart, groups_of, unpack_bytes
from specdecodes.quant.codes import Codes, pack
from specdecodes.quant.grids import STEPS
from specdecodes.quant.spec import Scheme

BITS, WORD = 4, 8
PLACES = (0, 4, 1, 5, 2, 6, 3, 7)  # where in a word each of its outputs is


@dataclass(frozen=True)
class AwqLayout:
    group: int
    marker: str = "qweight"

    @classmethod
    def of(cls, fields: Fields) -> AwqLayout:
        fields.one_of("bits", (BITS,))
        fields.one_of("version", ("gemm", "GEMM"), "gemm")
        fields.one_of("zero_point", (True,), True)
        return cls(fields.group("group_size", 128))

    def scheme(self, dtypes: Mapping[str, torch.dtype]) -> Scheme:
        wide = dtypes["scales"] == torch.float32
        return Scheme("awq4", BITS, self.group, regroups=False, grid=STEPS, wide=wide)

    def parts(self, out_features: int, in_features: int) -> dict[str, StoredPart]:
        groups = groups_of(in_features, self.group, "quantization_config.group_size")
        return {
            "qweight": StoredPart((in_features, out_features // WORD), (torch.int32,)),
            "qzeros": StoredPart((groups, out_features // WORD), (torch.int32,)),
            "scales": StoredPart((groups, out_features), SCALES),
        }

    def read(self, parts: Mapping[str, Tensor], name: str) -> Codes:
        codes, zeros = (_outputs(parts[part]).t().contiguous() for part in ("qweight", "qzeros"))
        return Codes(pack(codes, BITS), parts["scales"].t().float().contiguous(), zeros.float(), BITS)


def _outputs(words: Tensor) -> Tensor:
    """[n, out / 8] int32 to [n, out] uint8."""
    places = torch.tensor(PLACES, device=words.device)
    return unpack_bytes(words, BITS).view(len(words), -1, WORD).index_select(2, places).flatten(1)
