"""Inputs of a linear rounded to few bits at every call, row by row: no row's result depends on its neighbours.

`levels_and_steps` gives integers and what one of them is worth, for kernels that multiply integers; `rounded` gives the
product of both, which is what the reference multiplies.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from specdecodes.quant.grids import LARGEST_E2M1, LARGEST_E4M3, POSITIVE_E2M1

TINY = 1e-30  # keeps the step of an all-zero row above zero
HALVES = 2.0  # of e2m1 a level: all of them are whole multiples of a half
SMALLEST_EXPONENT = -127  # of an E8M0 scale
INTEGERS = {"int8": 127, "int4": 7}  # the largest level
WHOLE_ROWS = {"int8-row": 127.0, "int8-full": 127.5, "int8-fixed": 0.0}
"""Kinds of 8-bit integers with one step for all of a row: what its largest input is put on. `full` uses the level -128
too, and `fixed` has a step that is known beforehand."""
FLOATS = ("fp8", "fp8-fixed")


def rounded(x: Tensor, kind: str, group: int = 0, step: Tensor | None = None) -> Tensor:
    """`x` [n, in] float32 on the grid of `kind`, float32. `group`: inputs that share a step (0: the row), where the
    kind leaves that open. `step` [1] is that of a fixed kind. The empty kind rounds nothing."""
    if not kind:
        return x
    if kind in FLOATS:
        step = x.abs().amax(1, keepdim=True).clamp(min=TINY) / LARGEST_E4M3 if step is None else step
        return (x / step).clamp(-LARGEST_E4M3, LARGEST_E4M3).to(torch.float8_e4m3fn).float() * step
    if kind in WHOLE_ROWS:
        levels, step = row_levels(x, kind, step)
        return levels * step
    levels, steps = levels_and_steps(x, kind, group)
    return (levels.view(*steps.shape, -1) * steps[..., None]).view_as(x)


def levels_and_steps(x: Tensor, kind: str, group: int = 0) -> tuple[Tensor, Tensor]:
    """`x` [n, in] float32 as whole numbers of at most 127, [n, in] float32, and their steps [n, groups] float32.

    int8, int4: symmetric around zero in steps of the group's largest input. mxfp4: e2m1 in blocks of 32 whose scale is
    a power of two. nvfp4: e2m1 in blocks of 16 whose scale is an e4m3 times one number for the row. Both e2m1 kinds
    come in halves, which are whole.
    """
    if kind in INTEGERS:
        pieces = x.view(x.shape[0], -1, group or x.shape[1])
        steps = pieces.abs().amax(2).clamp(min=TINY) / INTEGERS[kind]
        return torch.round(pieces / steps[..., None]).view_as(x), steps
    pieces = x.view(x.shape[0], -1, 32 if kind == "mxfp4" else 16)
    peak = pieces.abs().amax(2)
    steps = power_of_two_scale(peak) if kind == "mxfp4" else e4m3_scale(peak, peak.amax(1, keepdim=True))
    return to_e2m1(pieces / steps[..., None]).view_as(x) * HALVES, steps / HALVES


def row_levels(x: Tensor, kind: str, step: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """`x` [n, in] float32 as whole numbers of -128..127, float32, and the step of each row [n, 1], or the fixed [1]."""
    if step is None:
        step = x.abs().amax(1, keepdim=True).clamp(min=TINY) / WHOLE_ROWS[kind]
    return torch.round(x / step).clamp(-128.0, 127.0), step


def power_of_two_scale(peak: Tensor) -> Tensor:
    """MXFP4's scale of blocks with the largest magnitudes `peak`: two to the peak's exponent less that of e2m1's own
    largest, 4 (OCP Microscaling Formats 1.0, 6.3); what is above 6 then saturates. No float is put on its exponent by
    a logarithm, which may be off by one."""
    exponent = torch.frexp(peak.clamp(min=TINY)).exponent - 1 - 2
    return torch.ldexp(torch.ones_like(peak), exponent.clamp(min=SMALLEST_EXPONENT))


def e4m3_scale(peak: Tensor, largest: Tensor) -> Tensor:
    """NVFP4's scale of blocks with the largest magnitudes `peak`: an e4m3 number times one scale for all blocks, by
    which that of the `largest` is at most 448. That one is a power of two here, so that the product has few digits."""
    whole = largest.clamp(min=TINY) / (LARGEST_E2M1 * LARGEST_E4M3)
    mantissa, exponent = torch.frexp(whole)
    power = torch.ldexp(torch.ones_like(whole), exponent - (mantissa == 0.5).int())
    scale = (peak / LARGEST_E2M1 / power).clamp(min=2.0**-9, max=LARGEST_E4M3)
    return scale.to(torch.float8_e4m3fn).float() * power


def to_e2m1(values: Tensor) -> Tensor:
    """The nearest e2m1 number, float32; magnitudes above 6 become 6, ties go to the smaller. Made of steps between
    neighbours: a table would have to be brought to the device at every call."""
    size, found = values.abs(), torch.zeros_like(values)
    for below, above in pairwise(POSITIVE_E2M1):
        found += (size > (below + above) / 2) * (above - below)
    return found * values.sign()
