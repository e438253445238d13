"""Linears of 4 bits, and of 2, on an integer kernel of our own: the fastest for up to sixteen rows, at int4pack's size.

Activations are rounded to 8 bits per row and group, so a huge activation coarsens its group alone; or to the 4-bit
integers or floats that a scheme asks for, whose levels the kernel is then given. Codes and levels are multiplied as
integers (w4a8.cpp: AVX512-VNNI or AVX2, chosen when it runs), so that with whole values the result is exact but for the
rounding of scales to fp16 and of the float sums over groups.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from specdecodes.errors import CompileError, QuantError
from specdecodes.native import address, load
from specdecodes.quant.activations import levels_and_steps
from specdecodes.quant.codes import Codes
from specdecodes.quant.kernels.cpu.lanes import LANES, LanesLinear

VARIANTS = {1: "plain C++", 2: "AVX2", 3: "AVX512-VNNI"}
PLAIN = 1


@dataclass(frozen=True)
class Support:
    """What this machine makes of the kernel: its variant, or 0; and one line for a person that says why."""

    variant: int
    note: str


@functools.cache
def _library() -> ctypes.CDLL:
    library = load(Path(__file__).with_suffix(".cpp"))
    library.w4a8.argtypes = [ctypes.c_void_p] * 8 + [ctypes.c_int64] * 4 + [ctypes.c_int] * 2
    library.w4a8.restype = None
    return library


def shares() -> tuple[int, int]:
    """Where its parts lie, for a kernel whose threads share them: rounding groups, and multiplying units."""
    return address(_library().w4a8_round), address(_library().w4a8_multiply)


@functools.cache
def support() -> Support:
    """Whether the kernel builds and is fast here. The first call on a machine compiles for some seconds."""
    try:
        variant = _library().w4a8_best()
    except CompileError as error:
        return Support(0, f"the fast 4-bit kernel could not be built: {str(error).rstrip('.')}")
    except OSError as error:
        cure = "set SPECDECODES_CACHE to a folder that can be written"
        return Support(0, f"the fast 4-bit kernel could not be kept or loaded ({error}): {cure}")
    if variant == PLAIN:
        return Support(0, "the fast 4-bit kernel needs a processor with AVX2")
    return Support(variant, f"built for {VARIANTS[variant]}")


def _matmul(
    x: Tensor,
    scale: Tensor,
    offset: Tensor,
    packed: Tensor,
    given: Tensor | None,
    steps: Tensor | None,
    whole: Tensor | None,
    bits: int,
    variant: int,
) -> Tensor:
    """x [n, in] float32, or `given` levels of it [n, in] int8 with steps [n, groups] float32, all contiguous; packed
    [padded out * in * bits / 8]; scale, offset [blocks, groups, 16] fp16; whole [16] uint8."""
    rows, width = x.shape
    blocks, groups, _ = scale.shape
    y = x.new_empty(rows, blocks * LANES)
    run: Callable[..., None] = _library().w4a8
    tensors = (x, given, steps, packed, scale, offset, whole, y)
    pointers = [tensor.data_ptr() if tensor is not None else None for tensor in tensors]
    run(*pointers, rows, width, blocks * LANES, groups, bits, variant)
    return y


torch.library.define("specdecodes::w4a8_matmul", torch.library.infer_schema(_matmul, mutates_args=()))
torch.library.impl("specdecodes::w4a8_matmul", "CPU", _matmul)


@torch.library.register_fake("specdecodes::w4a8_matmul")
def _matmul_shape(x: Tensor, scale: Tensor, *_: Tensor | int | None) -> Tensor:
    return x.new_empty(x.shape[0], scale.shape[0] * LANES)


class W4A8Linear(LanesLinear):
    """A linear on weights of 4 bits or less and activations of 8 bits or less for the CPU; `activations` is int8, int4,
    mxfp4 or nvfp4. `variant` asks for one of VARIANTS, which the processor must have; None takes its best."""

    def __init__(
        self,
        codes: Codes,
        bias: Tensor | None = None,
        *,
        activations: str = "int8",
        name: str = "weight",
        variant: int | None = None,
    ) -> None:
        chosen = variant or support().variant
        if not chosen:
            raise QuantError(f"{name}: {support().note}; choose int4pack or int8.")
        super().__init__(codes, bias, name, chosen, bits=stored_bits(codes.bits, codes.group))
        self.activations = activations

    def forward(self, x: Tensor) -> Tensor:
        """x [..., in] to [..., out] in x's dtype; integer sums, scaled and added in fp32."""
        rows, given, steps = self.rows(x), None, None
        if self.activations != "int8":
            levels, steps = levels_and_steps(rows, self.activations)
            given = levels.to(torch.int8)
            steps = steps.repeat_interleave(self.scale.shape[1] // steps.shape[1], 1).contiguous()
        y = torch.ops.specdecodes.w4a8_matmul(
            rows, self.scale, self.offset, self.packed, given, steps, self.whole, self.bits, self.variant
        )
        return self.finished(y, x)


def stored_bits(bits: int, group: int) -> int:
    """In which this kernel holds codes of `bits`: of two as they are, where groups allow; others in four."""
    return 2 if bits == 2 and group % 16 == 0 else 4
