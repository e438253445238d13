"""The definition of a quantized linear: dequantize, then multiply. Correct on every device, fast on none."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from specdecodes.quant.activations import rounded
from specdecodes.quant.codes import Codes, unpack
from specdecodes.quant.grids import E2M1, STEPS, table
from specdecodes.quant.hadamard import rotate


class ReferenceLinear(nn.Module):
    """A linear on codes that rebuilds its weight at every call: what other kernels are tested against.

    Stands in on devices that have no fused kernel for a scheme. Saves memory there, not time. `activations` is what
    inputs are rounded to, see `activations.rounded`; int8 has a step for each group of the codes. `as_given` asks for
    the very weights of a checkpoint's codes: then the offset is their zero-point.
    """

    packed: Tensor
    scale: Tensor
    offset: Tensor | None
    levels: Tensor | None
    order: Tensor | None
    step: Tensor | None
    shift: Tensor | None
    bias: Tensor | None

    def __init__(
        self, codes: Codes, bias: Tensor | None = None, *, activations: str = "", as_given: bool = False
    ) -> None:
        super().__init__()
        self.out_features, self.in_features = codes.shape
        self.bits, self.rotation, self.activations = codes.bits, codes.rotation, activations
        self.group = codes.group
        self.as_given = as_given
        scale, offset = (codes.scale, codes.zero) if as_given else codes.scale_and_offset()
        # What e2m1 is scaled with has at most four digits, powers of two and e4m3 numbers: bf16 holds it.
        self.register_buffer("scale", scale.bfloat16() if codes.grid == E2M1 else scale)
        self.register_buffer("offset", None if codes.zero is None and (as_given or codes.shift is None) else offset)
        self.register_buffer("levels", None if codes.grid == STEPS else table(codes.grid).to(scale.device))
        self.register_buffer("packed", codes.packed)
        self.register_buffer("order", codes.order)
        self.register_buffer("step", codes.step)
        self.register_buffer("shift", codes.shift if as_given else None)
        self.register_buffer("bias", bias)

    def forward(self, x: Tensor) -> Tensor:
        """x [..., in] to [..., out] in x's dtype; the weight is rounded once to that dtype, and so are rounded or
        rotated inputs."""
        rows = x.reshape(-1, self.in_features)
        if self.order is not None:
            rows = rows.index_select(1, self.order)
        if self.rotation or self.activations:
            wide = rotate(rows.float(), self.rotation)
            group = self.group if self.activations == "int8" else 0
            rows = rounded(wide, self.activations, group, self.step).to(x.dtype)
        bias = None if self.bias is None else self.bias.to(x.dtype)
        y = F.linear(rows, self.weight().to(x.dtype), bias)
        return y.reshape(*x.shape[:-1], self.out_features)

    def weight(self) -> Tensor:
        """[out, in] float32, rotated and ordered as the inputs are."""
        codes = unpack(self.packed, self.bits)
        levels = codes.float() if self.levels is None else self.levels[codes.int()]
        levels = levels.view(*self.scale.shape, -1)
        if self.as_given:
            levels = levels if self.offset is None else levels - self.offset[..., None]
            levels = levels * self.scale[..., None]
            levels = levels if self.shift is None else levels + self.shift[..., None]
            return levels.view(self.out_features, -1)
        levels = (levels - 8.0 if self.levels is None else levels) * self.scale.float()[..., None]
        if self.offset is not None:
            levels = levels + self.offset[..., None]
        return levels.view(self.out_features, -1)


def reference_bytes(out_features: int, in_features: int, group: int, *, bits: int = 4, grid: str = STEPS) -> int:
    """Exact bytes of a ReferenceLinear without bias."""
    scale = {STEPS: 8, E2M1: 2}.get(grid, 4)
    levels = 0 if grid == STEPS else table(grid).nbytes
    return out_features * in_features * bits // 8 + out_features * (in_features // group) * scale + levels
