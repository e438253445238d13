"""8-bit linears as two of 4 bits: the high and the low halves of the codes, on the kernels that run those.

`code = 16 * high + low`, so the product is that of both halves added: twice the time of four bits at twice their bytes,
at any group, and in no other precision than that of the kernel. Scales in fp16 move a weight by up to a sixth of the
8-bit step.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from specdecodes.quant.codes import Codes, pack
from specdecodes.quant.grids import STEPS
from specdecodes.quant.kernels.cpu.lanes import lanes_bytes
from specdecodes.quant.kernels.cpu.w4a8 import W4A8Linear
from specdecodes.quant.kernels.cpu.w4a32 import W4A32Linear


class HalvesLinear(nn.Module):
    """A linear on 8-bit weights for the CPU; `whole` activations stay as they are, others are rounded to 8 bits.
    `as_given`, for whole ones, as in LanesLinear."""

    def __init__(
        self, codes: Codes, bias: Tensor | None = None, *, whole: bool, name: str = "weight", as_given: bool = False
    ) -> None:
        super().__init__()
        high, low = _halves(codes)
        self.high: nn.Module
        self.low: nn.Module
        if as_given:
            self.high = W4A32Linear(high, bias, name=name, as_given=True)
            self.low = W4A32Linear(low, None, name=name, as_given=True)
        else:
            kernel = W4A32Linear if whole else W4A8Linear
            self.high, self.low = kernel(high, bias, name=name), kernel(low, None, name=name)

    def forward(self, x: Tensor) -> Tensor:
        """x [..., in] to [..., out] in x's dtype; both halves are added in fp32."""
        wide = x.float()
        return (self.high(wide) + self.low(wide)).to(x.dtype)


def halves_bytes(out_features: int, in_features: int, group: int) -> int:
    """Exact bytes of a HalvesLinear without bias."""
    return 2 * lanes_bytes(out_features, in_features, group)


def _halves(codes: Codes) -> tuple[Codes, Codes]:
    whole = codes.codes()
    zero = torch.full_like(codes.scale, 128.0) if codes.zero is None else codes.zero
    high = replace(codes, packed=pack(whole >> 4, 4), bits=4, grid=STEPS, scale=codes.scale * 16, zero=zero / 16)
    low = replace(codes, packed=pack(whole & 15, 4), bits=4, grid=STEPS, zero=torch.zeros_like(zero))
    return high, low
