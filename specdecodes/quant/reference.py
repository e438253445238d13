"""The definition of a quantized linear: dequantize, then multiply. Correct on every device, fast on none."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from specdecodes.quant.codes import Codes, unpack_nibbles


class ReferenceLinear(nn.Module):
    """A linear on 4-bit codes that rebuilds its weight at every call: what other kernels are tested against.

    Stands in on devices that have no fused kernel yet. Saves memory there, not time.
    """

    nibbles: Tensor
    scale: Tensor
    offset: Tensor
    bias: Tensor | None

    def __init__(self, codes: Codes, bias: Tensor | None = None) -> None:
        super().__init__()
        scale, offset = codes.scale_and_offset()
        self.out_features, self.in_features = codes.shape
        self.register_buffer("nibbles", codes.nibbles)
        self.register_buffer("scale", scale)
        self.register_buffer("offset", offset)
        self.register_buffer("bias", bias)

    def forward(self, x: Tensor) -> Tensor:
        """x [..., in] to [..., out] in x's dtype; the weight is rounded once to that dtype."""
        steps = unpack_nibbles(self.nibbles).view(*self.scale.shape, -1).float() - 8.0
        weight = steps * self.scale[..., None] + self.offset[..., None]
        bias = None if self.bias is None else self.bias.to(x.dtype)
        return F.linear(x, weight.view(self.out_features, -1).to(x.dtype), bias)


def reference_bytes(out_features: int, in_features: int, group: int) -> int:
    """Exact bytes of a ReferenceLinear without bias."""
    return out_features * in_features // 2 + out_features * (in_features // group) * 8
