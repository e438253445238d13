"""4-bit linears on a kernel of our own: the fastest for up to sixteen rows, at the size of int4pack.

Activations are rounded to 8 bits per row and group, so a huge activation coarsens its group alone. Codes and levels are
multiplied as integers (w4a8.cpp: AVX512-VNNI or AVX2, chosen when it runs); scales and offsets are fp16, which moves a
weight by about a hundredth of the 4-bit step. The layout is the same on all machines.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from specdecodes.errors import CompileError, QuantError
from specdecodes.native import build
from specdecodes.quant.codes import Codes
from specdecodes.quant.parallel import Workers, workers

LANES = 16  # output features of a block; the rest of the last one is padding
UNIT = 4  # blocks that lie side by side
VARIANTS = {1: "plain C++", 2: "AVX2", 3: "AVX512-VNNI"}
PLAIN = 1

torch.library.define(
    "specdecodes::w4a8_matmul", "(Tensor x, Tensor packed, Tensor scale, Tensor offset, int variant) -> Tensor"
)


@dataclass(frozen=True)
class Support:
    """What this machine makes of the kernel: its variant, or 0; and one line for a person that says why."""

    variant: int
    note: str


@functools.cache
def _library() -> ctypes.CDLL:
    library = ctypes.CDLL(str(build(Path(__file__).with_suffix(".cpp"))))
    library.w4a8.argtypes = [ctypes.c_void_p] * 5 + [ctypes.c_int64] * 4 + [ctypes.c_int]
    library.w4a8.restype = None
    return library


@functools.cache
def support() -> Support:
    """Whether the kernel builds and is fast here. The first call on a machine compiles for about two seconds."""
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


@torch.library.impl("specdecodes::w4a8_matmul", "CPU")
def _matmul(x: Tensor, packed: Tensor, scale: Tensor, offset: Tensor, variant: int) -> Tensor:
    """x [n, in] float32, contiguous; packed [out * in / 2]; scale, offset [blocks, groups, 16] fp16."""
    rows, width = x.shape
    blocks, groups, _ = scale.shape
    y = x.new_empty(rows, blocks * LANES)
    run: Callable[..., None] = _library().w4a8
    pointers = (x.data_ptr(), packed.data_ptr(), scale.data_ptr(), offset.data_ptr(), y.data_ptr())
    run(*pointers, rows, width, blocks * LANES, groups, variant)
    return y


@torch.library.register_fake("specdecodes::w4a8_matmul")
def _matmul_shape(x: Tensor, packed: Tensor, scale: Tensor, offset: Tensor, variant: int) -> Tensor:
    return x.new_empty(x.shape[0], scale.shape[0] * LANES)


class W4A8Linear(nn.Module):
    """A linear on 4-bit weights and 8-bit activations for the CPU. Buffers are plain tensors.

    packed: [out * in / 2] uint8, in the order that w4a8.cpp tells. scale, offset: [blocks, groups, 16] fp16. bias: [out] or None.
    `variant` asks for one of VARIANTS, which the processor must have; None takes its best.
    """

    packed: Tensor
    scale: Tensor
    offset: Tensor
    bias: Tensor | None

    def __init__(
        self, codes: Codes, bias: Tensor | None = None, *, name: str = "weight", variant: int | None = None
    ) -> None:
        super().__init__()
        if codes.packed.device.type != "cpu":
            raise QuantError(f"{name}: the w4a8 kernel runs on the CPU, not on {codes.packed.device}.")
        if codes.group % 8:
            raise QuantError(f"{name}: the w4a8 kernel takes groups that are multiples of 8, not {codes.group}.")
        self.variant = variant or support().variant
        if not self.variant:
            raise QuantError(f"{name}: {support().note}; choose int4pack or int8.")
        self.out_features, self.in_features = codes.shape
        with workers() as pool:
            scale, offset = codes.scale_and_offset()
            self.register_buffer("packed", _pack(codes, pool))
            self.register_buffer("scale", _by_block(scale))
            self.register_buffer("offset", _by_block(offset - 8.0 * scale))
        self.register_buffer("bias", bias)

    def forward(self, x: Tensor) -> Tensor:
        """x [..., in] to [..., out] in x's dtype; integer sums, scaled and added in fp32."""
        rows = x.reshape(-1, self.in_features).float().contiguous()
        y = torch.ops.specdecodes.w4a8_matmul(rows, self.packed, self.scale, self.offset, self.variant)
        y = y[:, : self.out_features]
        if self.bias is not None:
            y = y + self.bias
        return y.to(x.dtype).reshape(*x.shape[:-1], self.out_features)


def w4a8_bytes(out_features: int, in_features: int, group: int) -> int:
    """Exact bytes of a W4A8Linear without bias."""
    padded = -(-out_features // LANES) * LANES
    return padded * in_features // 2 + padded * (in_features // group) * 4


def _pack(codes: Codes, pool: Workers) -> Tensor:
    """[out * in / 2] uint8, made by blocks of rows."""

    def pack(rows: slice) -> Tensor:
        block = codes.codes(rows)
        # Axes: block and lane of the outputs; of the inputs, their eight, the half of it, and the place in the half.
        parts = F.pad(block, (0, 0, 0, -len(block) % LANES)).view(-1, LANES, block.shape[1] // 8, 2, 4)
        return (parts[..., 0, :] | parts[..., 1, :] << 4).transpose(1, 2).contiguous()

    blocks = torch.cat(pool.map(pack, codes.row_blocks()))  # [blocks, in / 8, 16, 4]
    return torch.cat([unit.transpose(0, 1).flatten() for unit in blocks.split(UNIT)])


def _by_block(values: Tensor) -> Tensor:
    """[out, groups] to [blocks, groups, 16] fp16."""
    padded = F.pad(values, (0, 0, 0, -len(values) % LANES))
    return padded.view(-1, LANES, values.shape[1]).transpose(1, 2).to(torch.float16).contiguous()
