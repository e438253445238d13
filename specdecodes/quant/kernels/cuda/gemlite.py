"""4-bit linears on the gemlite library's Triton kernels, for who asks for them: kernel `gemlite`, an optional extra.

Up to 63 rows its sums are not the same every time they are run, so a draft may run on it and a target may not. Not yet
run on a GPU, and gemlite cannot be imported without one.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from specdecodes.errors import QuantError
from specdecodes.extras import extra
from specdecodes.quant.codes import Codes


class GemliteLinear(nn.Module):
    """A linear on 4-bit weights for CUDA; `dtype` is what gemlite multiplies, and keeps scales and zeros, in."""

    def __init__(
        self,
        codes: Codes,
        bias: Tensor | None = None,
        *,
        device: torch.device | str = "cuda",
        dtype: torch.dtype = torch.bfloat16,
    ) -> None:
        """Raises QuantError where gemlite is not installed, and on a device that is not CUDA."""
        super().__init__()
        if torch.device(device).type != "cuda":
            raise QuantError(f"the gemlite kernel runs on CUDA, not on {device}; choose another kernel.")
        self.out_features, self.in_features = codes.shape
        self.dtype = dtype
        gemlite = extra("gemlite.helper", QuantError("the gemlite kernel needs gemlite: pip install gemlite"))
        helper = gemlite.A16W4_HQQ_INT(device=str(device), dtype=dtype)
        assert codes.zero is not None, "codes in steps have a zero-point"
        scale, zero = codes.scale.to(device), codes.zero.to(device)
        held = None if bias is None else bias.to(device)
        self.linear = helper.from_weights(codes.codes().to(device), scale, zero, bias=held)

    def forward(self, x: Tensor) -> Tensor:
        """x [..., in] to [..., out] in x's dtype."""
        return self.linear(x.to(self.dtype)).to(x.dtype)
