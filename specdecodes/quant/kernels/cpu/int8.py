"""8-bit linears on oneDNN's integer product: for wide draft levels, where no compiler can build w4a8.

The weights are those of the same 4-bit solution, put on one 8-bit grid per output channel (a step of 1/127 of the
channel's largest weight, below a tenth of the 4-bit step in most groups). Activations are rounded to 8 bits per row,
symmetrically, at every call; row by row, so a row's result does not depend on its neighbours. A few huge activations in
a row coarsen all of that row.

Twice the bytes of the 4-bit form. oneDNN's layout is opaque; it travels through compiled steps as the argument of an
operator of our own, since the compiler takes oneDNN weights only as constants, which would mean one graph per layer.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from specdecodes.errors import QuantError
from specdecodes.quant.activations import row_levels
from specdecodes.quant.codes import Codes
from specdecodes.quant.grids import CENTRED
from specdecodes.quant.parallel import Workers, workers

MIDDLE = 128  # activations are unsigned around this: oneDNN has no fast signed-by-signed product without AMX
TINY = 1e-12  # keeps the scale of an all-zero row above zero

torch.library.define("specdecodes::int8_matmul", "(Tensor rows, Tensor packed, Tensor scale, Tensor zero) -> Tensor")


@torch.library.impl("specdecodes::int8_matmul", "default")
def _int8_matmul(rows: Tensor, packed: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
    """(rows - 128) @ (weights * scale): rows [n, in] uint8, packed from qlinear_prepack; gives [n, out] float32."""
    return torch.ops.onednn.qlinear_pointwise(
        rows, 1.0, MIDDLE, packed, scale, zero, None, 1.0, 0, torch.float32, "none", [], ""
    )


@torch.library.register_fake("specdecodes::int8_matmul")
def _int8_matmul_shape(rows: Tensor, packed: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
    return rows.new_empty(rows.shape[0], scale.shape[0], dtype=torch.float32)


class Int8Linear(nn.Module):
    """A linear on 8-bit weights and activations for the CPU.

    packed: int8 in oneDNN's order; scale: [out] float32; zero: [out] int32 zeros that the product asks for. Codes that
    are 8-bit integers of one step a channel already are taken as they are. `activations` is one of WHOLE_ROWS.
    """

    packed: Tensor
    scale: Tensor
    zero: Tensor
    order: Tensor | None
    step: Tensor | None
    bias: Tensor | None

    def __init__(
        self, codes: Codes, bias: Tensor | None = None, *, activations: str = "int8-row", name: str = "weight"
    ) -> None:
        super().__init__()
        if codes.packed.device.type != "cpu":
            raise QuantError(f"{name}: oneDNN's int8 product runs on the CPU, not on {codes.packed.device}.")
        self.out_features, self.in_features = codes.shape
        self.activations = activations
        with workers() as pool:
            weight, scale = _to_int8(codes, pool)
        self.register_buffer("packed", torch.ops.onednn.qlinear_prepack(weight, None))
        self.register_buffer("scale", scale)
        self.register_buffer("zero", torch.zeros(self.out_features, dtype=torch.int32))
        self.register_buffer("order", codes.order)
        self.register_buffer("step", codes.step)
        self.register_buffer("bias", bias)

    def forward(self, x: Tensor) -> Tensor:
        """x [..., in] to [..., out] in x's dtype; exact integer sums, scaled in fp32."""
        rows = x.reshape(-1, self.in_features).float()
        if self.order is not None:
            rows = rows.index_select(1, self.order)
        levels, step = row_levels(rows, self.activations, self.step)
        levels = (levels + MIDDLE).to(torch.uint8)
        y = torch.ops.specdecodes.int8_matmul(levels, self.packed, self.scale, self.zero) * step
        if self.bias is not None:
            y = y + self.bias
        return y.to(x.dtype).reshape(*x.shape[:-1], self.out_features)


def int8_bytes(out_features: int, in_features: int) -> int:
    """Bytes of an Int8Linear without bias."""
    return out_features * in_features + out_features * 8


def _to_int8(codes: Codes, pool: Workers) -> tuple[Tensor, Tensor]:
    """The solution on one 8-bit grid per channel: [out, in] int8 and its step [out] float32."""
    if codes.grid == f"{CENTRED}8" and codes.scale.shape[1] == 1:
        return (codes.packed.int() - MIDDLE).to(torch.int8), codes.scale.squeeze(1)

    def convert(rows: slice) -> tuple[Tensor, Tensor]:
        values = codes.dequantize(rows)
        step = values.abs().amax(1, keepdim=True).clamp_(min=TINY) / 127.0
        return values.div_(step).round_().to(torch.int8), step.squeeze(1)

    weight, scale = zip(*pool.map(convert, codes.row_blocks()), strict=True)
    return torch.cat(weight), torch.cat(scale)
