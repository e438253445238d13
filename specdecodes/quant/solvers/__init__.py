"""From a weight and the name of a scheme to codes."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from specdecodes.quant.codes import BLOCK_WEIGHTS, Codes, check_group, check_weight
from specdecodes.quant.grids import CENTRED, E2M1, E4M3, GAUSS, STEPS
from specdecodes.quant.hadamard import rotate, rotation_of
from specdecodes.quant.parallel import piece
from specdecodes.quant.solvers import hqq
from specdecodes.quant.solvers.higgs import solve_rotated
from specdecodes.quant.solvers.rounding import float4, float8, from_low_to_high, symmetric
from specdecodes.quant.spec import Scheme

_IN_PIECES = ("hqq", "higgs", "w4a8")
_WORKED_ON = 5 * 4  # bytes a weight that is being solved: so many numbers in float32


def solve(weight: Tensor, scheme: Scheme, *, name: str = "weight") -> Codes:
    """`weight` [out, in], of any float dtype, on the grid of `scheme`; computed in float32 on the weight's device.

    Raises QuantError, with `name` in it, when the group does not divide `in`, a weight is not finite, or the tensor is
    no matrix of full-precision numbers.
    """
    check_weight(weight, name=name)
    group = scheme.group_of(weight.shape[1])
    check_group(weight.shape[1], group, name=name)
    match scheme.name:
        case "int8" | "w8a8":
            return symmetric(weight, bits=8, group=group)
        case "int4":
            return from_low_to_high(weight, bits=4, group=group)
        case "fp8":
            return float8(weight)
        case "mxfp4" | "nvfp4" as layout:
            return float4(weight, layout=layout, group=group)
        case "higgs2" | "higgs3" | "higgs4":
            return solve_rotated(weight, bits=scheme.bits, group=group)
        case "w4a4" | "w4a16":
            rotation = rotation_of(weight.shape[1])
            codes = symmetric(rotate(weight.detach().float(), rotation), bits=4, group=group)
            return replace(codes, rotation=rotation)
        case _:  # hqq2, hqq3, hqq4, hqq8, and w4a8, whose weights are those of hqq4
            return hqq.solve(weight, bits=scheme.bits, group=group, name=name)


def solving_bytes(out_features: int, in_features: int, scheme: Scheme, itemsize: int) -> int:
    """Of an accelerator, while a weight of `itemsize` bytes a number is put on its grid: it, and numbers to work on."""
    weights = at_once = out_features * in_features
    if scheme.name.startswith(_IN_PIECES):
        at_once = min(weights, piece(BLOCK_WEIGHTS, torch.device("cuda")))
    return weights * itemsize + at_once * _WORKED_ON


def grid_of(scheme: Scheme) -> str:
    """The grid of the codes that `solve` gives, or that the checkpoint has."""
    if scheme.grid:
        return scheme.grid
    match scheme.name:
        case "int8" | "w8a8" | "w4a4" | "w4a16":
            return f"{CENTRED}{scheme.bits}"
        case "fp8":
            return E4M3
        case "mxfp4" | "nvfp4":
            return E2M1
        case "higgs2" | "higgs3" | "higgs4":
            return f"{GAUSS}{scheme.bits}"
        case _:
            return STEPS


def specimen_codes(out_features: int, in_features: int, scheme: Scheme, device: torch.device) -> Codes:
    """Random codes of the form that `solve` gives. Raises QuantError when the group does not divide `in`."""
    group = scheme.group_of(in_features)
    check_group(in_features, group)
    shape = out_features, in_features * scheme.bits // 8
    packed = torch.randint(0, 255, shape, dtype=torch.uint8, device=device) & 0x77  # no NaN among 8-bit floats
    scale = torch.full((out_features, in_features // group), 2.0**-7, device=device)
    zero = torch.full_like(scale, 2.0 ** (scheme.bits - 1)) if grid_of(scheme) == STEPS else None
    rotation = rotation_of(in_features) if scheme.rotated else 0
    return Codes(packed, scale, zero, scheme.bits, grid_of(scheme), rotation)
