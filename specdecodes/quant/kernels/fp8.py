"""8-bit float linears on torch's scaled product: e4m3 weights, and e4m3 activations rounded row by row at every call.

On CUDA from compute capability 8.9 on the tensor cores' own (not yet run on a GPU); on the CPU oneDNN's. Both multiply
e4m3 numbers, which is exact in fp32, and scale the sums by the steps of row and output afterwards.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from specdecodes.quant.activations import TINY
from specdecodes.quant.codes import Codes
from specdecodes.quant.grids import LARGEST_E4M3


class Fp8Linear(nn.Module):
    """A linear on e4m3 weights and activations.

    weight: [out, in] e4m3. scale: [1, out] float32. one: the scale that the product is given. bias: [out] or None.
    """

    weight: Tensor
    scale: Tensor
    one: Tensor
    bias: Tensor | None

    def __init__(self, codes: Codes, bias: Tensor | None = None, *, device: torch.device | str = "cpu") -> None:
        super().__init__()
        self.out_features, self.in_features = codes.shape
        self.register_buffer("weight", codes.packed.view(torch.float8_e4m3fn).to(device))
        self.register_buffer("scale", codes.scale.T.to(device).contiguous())
        self.register_buffer("one", torch.ones((), device=device))
        self.register_buffer("bias", None if bias is None else bias.to(device))

    def forward(self, x: Tensor) -> Tensor:
        """x [..., in] to [..., out] in x's dtype."""
        rows = x.reshape(-1, self.in_features).float()
        step = rows.abs().amax(1, keepdim=True).clamp(min=TINY) / LARGEST_E4M3
        levels = (rows / step).to(torch.float8_e4m3fn)
        sums = torch._scaled_mm(levels, self.weight.t(), scale_a=self.one, scale_b=self.one, out_dtype=torch.float32)
        y = sums * step * self.scale
        if self.bias is not None:
            y = y + self.bias
        return y.to(x.dtype).reshape(*x.shape[:-1], self.out_features)


def fp8_bytes(out_features: int, in_features: int) -> int:
    """Exact bytes of an Fp8Linear without bias."""
    return out_features * in_features + out_features * 4 + 4
