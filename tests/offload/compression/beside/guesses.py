"""Guesses made of the linears that hold such buffers, and weights that they are guesses of."""

from __future__ import annotations

import torch
from torch import Tensor

from specdecodes.offload.compression.beside.guess import HALVES, LANES, Guess
from specdecodes.quant.codes import Codes, pack
from specdecodes.quant.kernels.cpu.w4a8 import W4A8Linear
from specdecodes.quant.kernels.cuda.w4a16 import W4A16Linear

LAYOUTS = (LANES, HALVES)


def codes_of(weight: Tensor, group: int) -> Codes:
    """The nearest of sixteen even steps between the extremes of each group."""
    parts = weight.float().view(len(weight), -1, group)
    low, high = parts.amin(2), parts.amax(2)
    scale = torch.where(high > low, (high - low) / 15, 1.0)
    zero = -low / scale
    codes = (parts / scale[..., None] + zero[..., None]).round().clamp(0, 15).to(torch.uint8)
    return Codes(pack(codes.flatten(1), 4), scale, zero)


def guess_of(codes: Codes, layout: str, first: int = 0, rows: int | None = None) -> Guess:
    out, width = codes.shape
    rows = out - first if rows is None else rows
    if layout == LANES:
        lanes = W4A8Linear(codes)
        return Guess(lanes.packed, lanes.scale, lanes.offset, LANES, first, rows, width)
    halves = W4A16Linear(codes, device="cpu")
    return Guess(halves.nibbles, halves.scale, halves.offset, HALVES, first, rows, width)


def normal(rows: int, width: int, scale: float = 0.02) -> Tensor:
    generator = torch.Generator().manual_seed(rows * width)
    return torch.randn(rows, width, generator=generator).mul_(scale).bfloat16()


def raw_of(weight: Tensor) -> Tensor:
    """Its bytes."""
    return weight.contiguous().flatten().view(torch.uint8)
