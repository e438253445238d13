"""4-bit linears on torch's packed kernel for processors: for few rows, where no compiler can build w4a8.

The kernel multiplies bf16 activations with `(code - 8) * scale + offset`, its scale and offset in bf16. Rounding them
moves a weight by at most 2**-9 of `8 * scale` plus 2**-9 of the offset, a few percent of the half step that the 4-bit
grid itself costs. Activations of other dtypes are rounded to bf16: the kernel's fp16 and fp32 forms are not vectorized
and over twenty times slower. The packed layout depends on the machine's vector width, so it is never stored on disk.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from specdecodes.errors import QuantError
from specdecodes.quant.codes import Codes
from specdecodes.quant.parallel import Workers, workers

GROUPS = (32, 64, 128, 256)
ROWS = 16  # the kernel takes output features in multiples of this; the rest is padding


class Int4Linear(nn.Module):
    """A linear on 4-bit weights for the CPU. Buffers are plain tensors: one compiled step serves every layer.

    packed: [out rounded up to 16, in / 2] uint8 in the kernel's own order.
    scale_and_offset: [groups, out rounded up to 16, 2] bf16. bias: [out] or None.
    """

    packed: Tensor
    scale_and_offset: Tensor
    bias: Tensor | None

    def __init__(self, codes: Codes, bias: Tensor | None = None, *, name: str = "weight") -> None:
        super().__init__()
        if codes.group not in GROUPS:
            raise QuantError(f"{name}: the packed int4 kernel takes groups of {_listed(GROUPS)}, not {codes.group}.")
        if codes.packed.device.type != "cpu":
            raise QuantError(f"{name}: the packed int4 kernel runs on the CPU, not on {codes.packed.device}.")
        self.out_features, self.in_features = codes.shape
        self.group = codes.group
        with workers() as pool:
            self.register_buffer("packed", _pack(codes, pool))
            self.register_buffer("scale_and_offset", _pack_scales(codes))
        self.register_buffer("bias", bias)

    def forward(self, x: Tensor) -> Tensor:
        """x [..., in] to [..., out] in x's dtype; sums in fp32, rounded to bf16 once."""
        rows = x.reshape(-1, self.in_features).to(torch.bfloat16)
        y = torch.ops.aten._weight_int4pack_mm_for_cpu(rows, self.packed, self.group, self.scale_and_offset)
        y = y[:, : self.out_features].to(x.dtype)
        if self.bias is not None:
            y = y + self.bias.to(x.dtype)
        return y.reshape(*x.shape[:-1], self.out_features)


def int4_bytes(out_features: int, in_features: int, group: int) -> int:
    """Exact bytes of an Int4Linear without bias."""
    padded = -(-out_features // ROWS) * ROWS
    return padded * in_features // 2 + padded * (in_features // group) * 4


def _pack(codes: Codes, pool: Workers) -> Tensor:
    """The kernel's layout, made by blocks of rows: its input is 32 bits a code, eight times the result."""

    def pack(rows: slice) -> Tensor:
        block = codes.codes(rows).to(torch.int32)
        return torch.ops.aten._convert_weight_to_int4pack_for_cpu(F.pad(block, (0, 0, 0, -len(block) % ROWS)), 1)

    return torch.cat(pool.map(pack, codes.row_blocks()))


def _pack_scales(codes: Codes) -> Tensor:
    """[groups, padded out, 2] bf16."""
    pair = torch.stack([part.t() for part in codes.scale_and_offset()], dim=-1)
    return F.pad(pair, (0, 0, 0, -pair.shape[1] % ROWS)).to(torch.bfloat16).contiguous()


def _listed(sizes: tuple[int, ...]) -> str:
    return ", ".join(map(str, sizes[:-1])) + f" or {sizes[-1]}"
