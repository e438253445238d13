"""Grids that are found by plain rounding: whole numbers, 4-bit floats and 8-bit floats."""

from __future__ import annotations

import torch
from torch import Tensor

from specdecodes.quant.activations import TINY, e4m3_scale, power_of_two_scale
from specdecodes.quant.codes import Codes, pack
from specdecodes.quant.grids import CENTRED, E2M1, E4M3, LARGEST_E4M3, nearest, table


def symmetric(weight: Tensor, *, bits: int, group: int) -> Codes:
    """Whole numbers around zero, in steps of the group's largest weight [out, in]."""
    half = 2 ** (bits - 1)
    pieces = _pieces(weight, group)
    scale = (pieces.abs().amax(2) / (half - 1)).clamp_(min=TINY)
    codes = torch.round(pieces / scale[..., None]).add_(half).to(torch.uint8)
    return Codes(pack(codes.flatten(1), bits), scale, bits=bits, grid=f"{CENTRED}{bits}")


def from_low_to_high(weight: Tensor, *, bits: int, group: int) -> Codes:
    """All codes from the group's smallest weight to its largest, zero among them."""
    pieces = _pieces(weight, group)
    low, high = pieces.amin(2).clamp_(max=0.0), pieces.amax(2).clamp_(min=0.0)
    scale = ((high - low) / (2**bits - 1)).clamp_(min=TINY)
    zero = torch.round(-low / scale)
    codes = torch.round(pieces / scale[..., None] + zero[..., None]).clamp_(0, 2**bits - 1).to(torch.uint8)
    return Codes(pack(codes.flatten(1), bits), scale, zero, bits=bits)


def float8(weight: Tensor) -> Codes:
    """e4m3 numbers, one scale for each output."""
    wide = weight.float()
    scale = (wide.abs().amax(1, keepdim=True) / LARGEST_E4M3).clamp_(min=TINY)
    return Codes((wide / scale).to(torch.float8_e4m3fn).view(torch.uint8), scale, bits=8, grid=E4M3)


def float4(weight: Tensor, *, layout: str, group: int) -> Codes:
    """e2m1 numbers in blocks of `group`, scaled as `layout`, mxfp4 or nvfp4, says."""
    pieces = _pieces(weight, group)
    peak = pieces.abs().amax(2)
    scale = power_of_two_scale(peak) if layout == "mxfp4" else e4m3_scale(peak, peak.amax())
    scaled = (pieces / scale[..., None]).flatten(1)
    codes = nearest(scaled.abs(), table(E2M1)[:8].to(weight.device)).to(torch.uint8)
    codes |= (scaled < 0).to(torch.uint8) << 3
    return Codes(pack(codes, 4), scale, grid=E2M1)


def _pieces(weight: Tensor, group: int) -> Tensor:
    """[out, groups, group] float32."""
    return weight.detach().float().view(weight.shape[0], -1, group)
