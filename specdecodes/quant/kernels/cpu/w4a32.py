"""4-bit linears whose activations stay as they are, on a float kernel of our own for the CPU.

What a target of 4 bits or less runs on, since rounding its inputs would be another precision than asked. Products are
exact and summed in fp32 (w4a32.cpp: AVX512 or AVX2, chosen when it runs): of activations widened to fp32, or of bf16 as
it is where bf16 holds the values of the codes too (what the rotation makes of bf16 is rounded to it, as the reference
does). A row's result does not depend on the other rows, nor on how many there are.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from specdecodes.errors import QuantError
from specdecodes.native import load
from specdecodes.quant.codes import Codes
from specdecodes.quant.kernels.cpu.lanes import LANES, LanesLinear
from specdecodes.quant.kernels.cpu.w4a8 import support


@functools.cache
def _library() -> ctypes.CDLL:
    library = load(Path(__file__).with_suffix(".cpp"))
    for function in (library.w4a32, library.w4a32_short):
        function.argtypes = [ctypes.c_void_p] * 6 + [ctypes.c_int64] * 4 + [ctypes.c_int] * 2
        function.restype = None
    return library


def _matmul(
    x: Tensor, scale: Tensor, offset: Tensor, packed: Tensor, values: Tensor, zeros: bool, variant: int
) -> Tensor:
    """x [n, in] float32 or bfloat16, contiguous; packed, scale, offset, values and zeros as in `LanesLinear`."""
    rows, width = x.shape
    blocks, groups, _ = scale.shape
    y = x.new_empty(rows, blocks * LANES, dtype=torch.float32)
    run: Callable[..., None] = _library().w4a32_short if x.dtype == torch.bfloat16 else _library().w4a32
    pointers = [tensor.data_ptr() for tensor in (x, packed, scale, offset, values, y)]
    run(*pointers, rows, width, blocks * LANES, groups, zeros, variant)
    return y


torch.library.define("specdecodes::w4a32_matmul", torch.library.infer_schema(_matmul, mutates_args=()))
torch.library.impl("specdecodes::w4a32_matmul", "CPU", _matmul)


@torch.library.register_fake("specdecodes::w4a32_matmul")
def _matmul_shape(x: Tensor, scale: Tensor, *_: Tensor | int) -> Tensor:
    return x.new_empty(x.shape[0], scale.shape[0] * LANES, dtype=torch.float32)


class W4A32Linear(LanesLinear):
    """A linear on 4-bit weights for the CPU, its activations as they are. `variant` as in W4A8Linear, `as_given` as in
    LanesLinear."""

    def __init__(
        self,
        codes: Codes,
        bias: Tensor | None = None,
        *,
        name: str = "weight",
        variant: int | None = None,
        as_given: bool = False,
    ) -> None:
        chosen = variant or support().variant
        if not chosen:
            raise QuantError(f"{name}: {support().note}; write @reference behind the scheme.")
        super().__init__(codes, bias, name, chosen, as_given=as_given)

    def forward(self, x: Tensor) -> Tensor:
        """x [..., in] to [..., out] in x's dtype; products, scales and sums in fp32."""
        rows = self.rows(x, torch.bfloat16 if self.short and x.dtype == torch.bfloat16 else torch.float32)
        y = torch.ops.specdecodes.w4a32_matmul(
            rows, self.scale, self.offset, self.packed, self.values, self.zeros, self.variant
        )
        return self.finished(y, x)
