"""Weights of 4 or 2 bits in blocks of sixteen outputs: the layout that the kernels of our own on the CPU share.

A weight is `value(code) * scale + offset`, scale and offset in fp16, which moves it by about a hundredth of the step
between two levels. Values are whole numbers of at most 128: the codes themselves, e2m1 numbers in halves, or Lloyd-Max
levels in 64ths of the largest, which adds under two percent to the error that those make (the float kernel takes them
as they are). The layout is the same on all machines.
"""

from __future__ import annotations

from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from specdecodes.errors import QuantError
from specdecodes.quant.codes import PLANES, Codes, unpack
from specdecodes.quant.grids import CENTRED, E2M1, STEPS, table
from specdecodes.quant.hadamard import rotate
from specdecodes.quant.parallel import Workers, workers

LANES = 16  # output features of a block; the rest of the last one is padding
UNIT = 4  # blocks that lie side by side
FINEST = 64  # of the largest level a whole number is, where levels are not whole themselves


class LanesLinear(nn.Module):
    """What both kernels hold; `forward` is theirs. Buffers are plain tensors.

    packed: [padded out * in * bits / 8] uint8, in the order that w4a8.cpp tells. scale, offset: [blocks, groups, 16]
    fp16.
    values: [16] float32, of the codes; `short` where bf16 holds them.
    whole: [16] uint8, the values rounded, or None where the codes are the values. bias: [out] or None.
    order: as in Codes. `as_given` asks for the very weights of the codes, which a checkpoint brought: then the offset
    is minus their zero-point (`zeros`), and a scale that fp16 does not hold is refused.
    """

    packed: Tensor
    scale: Tensor
    offset: Tensor
    values: Tensor
    whole: Tensor | None
    order: Tensor | None
    bias: Tensor | None

    def __init__(
        self, codes: Codes, bias: Tensor | None, name: str, variant: int, *, bits: int = 4, as_given: bool = False
    ) -> None:
        super().__init__()
        if codes.packed.device.type != "cpu":
            raise QuantError(f"{name}: this kernel runs on the CPU, not on {codes.packed.device}.")
        if codes.group % (32 // bits):
            raise QuantError(f"{name}: this kernel takes groups that are multiples of {32 // bits}, not {codes.group}.")
        self.out_features, self.in_features = codes.shape
        self.bits = bits
        self.rotation, self.variant, self.zeros = codes.rotation, variant, as_given
        values, whole, unit, middle = _values(codes.grid)
        scale, offset = codes.scale_and_offset()
        if as_given:
            scale, offset = _given(codes, name)
        elif whole is None:
            offset = offset - 8.0 * scale
        else:
            scale = (scale * unit).half().float()
            offset = -middle * scale
        with workers() as pool:
            self.register_buffer("packed", _pack(codes, bits, pool))
            self.register_buffer("scale", _by_block(scale))
            self.register_buffer("offset", _by_block(offset))
        self.short = bool((values.bfloat16().float() == values).all())
        self.register_buffer("values", values)
        self.register_buffer("whole", whole)
        self.register_buffer("order", codes.order)
        self.register_buffer("bias", bias)

    @classmethod
    def sharing(cls, linear: LanesLinear) -> Self:
        """The same weights, in the same memory, on this kernel: a second way to run one linear."""
        made = cls.__new__(cls)
        nn.Module.__init__(made)
        made.out_features, made.in_features, made.bits = linear.out_features, linear.in_features, linear.bits
        made.rotation, made.variant, made.zeros = linear.rotation, linear.variant, linear.zeros
        made.short = linear.short
        for name, buffer in linear._buffers.items():
            made.register_buffer(name, buffer)
        return made

    def rows(self, x: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """x [..., in] as [n, in] of `dtype`, contiguous, ordered and rotated (in float32) where the weights are."""
        rows = x.reshape(-1, self.in_features)
        if self.order is not None:
            rows = rows.index_select(1, self.order)
        if self.rotation:
            rows = rotate(rows.float(), self.rotation)
        return rows.to(dtype).contiguous()

    def finished(self, y: Tensor, x: Tensor) -> Tensor:
        """y [n, padded out] of the kernel, with the bias, as [..., out] in x's dtype."""
        y = y[:, : self.out_features]
        if self.bias is not None:
            y = y + self.bias
        return y.to(x.dtype).reshape(*x.shape[:-1], self.out_features)


def lanes_bytes(out_features: int, in_features: int, group: int, grid: str = STEPS, *, bits: int = 4) -> int:
    """Exact bytes of a LanesLinear without bias, its codes held in `bits`."""
    padded = -(-out_features // LANES) * LANES
    tables = 64 if _values(grid)[1] is None else 80
    return padded * in_features * bits // 8 + padded * (in_features // group) * 4 + tables


def _given(codes: Codes, name: str) -> tuple[Tensor, Tensor]:
    """Scale and minus the zero-point of codes in steps, float32, both such as fp16 holds."""
    assert codes.zero is not None and codes.grid == STEPS, "a checkpoint's 4-bit codes are in steps from a zero-point"
    for part in (codes.scale, codes.zero):
        lost = part.half().float() != part
        if bool(lost.any()):
            raise QuantError(
                f"{name}: fp16 does not hold {float(part[lost][0]):.3g}, a scale or zero-point of this checkpoint, so "
                "this kernel would run other weights; write --set target.quant=@reference."
            )
    return codes.scale, -codes.zero


def _values(grid: str) -> tuple[Tensor, Tensor | None, float, float]:
    """The values of sixteen codes, float32 and whole (None: equal to the codes), what one is worth in levels of the
    grid, and the value of level zero."""
    if grid == STEPS or grid.startswith(CENTRED):
        return torch.arange(16.0), None, 1.0, 8.0
    levels = table(grid)
    unit = 0.5 if grid == E2M1 else float(levels.abs().amax()) / FINEST
    middle = round(float(levels.abs().amax()) / unit)
    values = F.pad(levels / unit + middle, (0, 16 - len(levels)))
    return values, values.round().to(torch.uint8), unit, float(middle)


def _pack(codes: Codes, bits: int, pool: Workers) -> Tensor:
    """[padded out * in * bits / 8] uint8, made by blocks of rows."""

    def pack(rows: slice) -> Tensor:
        block, shares = _fours(codes, rows), 8 // bits  # fours whose codes lie in the same bytes
        # Axes: block and lane of the outputs; of the inputs, those that come at a time, the fours of them.
        parts = F.pad(block, (0, 0, 0, -len(block) % LANES)).view(-1, LANES, block.shape[1] // shares, shares)
        together = parts[..., 0].clone()
        for share in range(1, shares):
            together |= parts[..., share] << (bits * share)
        return together.transpose(1, 2).contiguous()

    blocks = torch.cat(pool.map(pack, codes.row_blocks()))  # [blocks, in / 8 or 16, 16] of four bytes
    return torch.cat([unit.transpose(0, 1).flatten() for unit in blocks.split(UNIT)]).view(torch.uint8)


def _fours(codes: Codes, rows: slice) -> Tensor:
    """Codes of some rows, four in an integer: [rows, in / 4] int32. Where they lie so that four can be taken at a time,
    none is ever alone."""
    packed = codes.packed[rows]
    together = packed.shape[1] % (4 * sum(PLANES[codes.bits])) == 0 and packed.storage_offset() % 4 == 0
    return unpack(packed.view(torch.int32), codes.bits) if together else codes.codes(rows).view(torch.int32)


def unpack_lanes(packed: Tensor, scale: Tensor, offset: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What `LanesLinear` holds as codes [padded out, in] uint8 and scale and offset [padded out, groups] float32."""
    blocks, groups, _ = scale.shape
    width = len(packed) * 2 // (blocks * LANES)
    units = packed.split(UNIT * LANES * width // 2)
    # Axes: block, the eight of the inputs, lane, place in the half; then both halves of the eight.
    parts = torch.cat([unit.view(width // 8, -1, LANES, 4).transpose(0, 1) for unit in units]).transpose(1, 2)
    codes = torch.stack([parts & 15, parts >> 4], 3).reshape(blocks * LANES, width)
    by_row = [values.transpose(1, 2).flatten(0, 1).float().contiguous() for values in (scale, offset)]
    return codes, by_row[0], by_row[1]


def _by_block(values: Tensor) -> Tensor:
    """[out, groups] to [blocks, groups, 16] fp16."""
    padded = F.pad(values, (0, 0, 0, -len(values) % LANES))
    return padded.view(-1, LANES, values.shape[1]).transpose(1, 2).to(torch.float16).contiguous()
