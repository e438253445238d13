"""The Triton kernel of lookup.py. Apart from it, because triton is there only with torch's CUDA build.

Run under triton's interpreter and compiled for several GPUs, but not yet run on one.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

OPERANDS = {torch.bfloat16: tl.bfloat16, torch.float16: tl.float16, torch.float32: tl.float32}
TILE_ROWS, TILE_OUT = 16, 64


def partial_lookups(
    x: Tensor, packed: Tensor, scale: Tensor, offset: Tensor | None, levels: Tensor | None, bits: int, splits: int
) -> Tensor:
    """`x` [n, in] on the codes of `packed` [out, in * bits / 8]: [splits, n, out] float32, whose sum is the product.

    scale, offset [groups, out] fp16; without an offset it is zero. levels [2**bits] float32; without them the code is
    its level. Two launches of one shape do the same sums in the same order.
    """
    rows, width = x.shape
    out, groups = packed.shape[0], scale.shape[0]
    block = lookup_block(width, width // groups)
    y = torch.empty(splits, rows, out, dtype=torch.float32, device=x.device)
    steps = -(-(width // block) // splits)
    grid = (triton.cdiv(rows, TILE_ROWS), triton.cdiv(out, TILE_OUT), splits)
    _look_up[grid](
        x, packed, scale, scale if offset is None else offset, scale if levels is None else levels, y,
        rows, out, width, steps,
        BITS=bits, GROUP=width // groups, OFFSET=offset is not None, LEVELS=levels is not None,
        BLOCK_M=TILE_ROWS, BLOCK_N=TILE_OUT, BLOCK_K=block,
        OPERAND=OPERANDS[x.dtype] if x.is_cuda else tl.float32,  # the interpreter multiplies no bf16
        num_warps=4, num_stages=3,
    )  # fmt: skip
    return y


def lookup_block(width: int, group: int) -> int:
    """Inputs taken at a time: a power of two, 64 at most, of one group and of one part of each packed plane."""
    part = width // 8
    shared = (group & -group) if part % group == 0 else min(group & -group, part & -part)
    return min(shared, 64)


@triton.jit
def _codes_at(row, start, k, width, is_out, BITS: tl.constexpr):  # type: ignore[no-untyped-def]
    """Codes [BLOCK_N, BLOCK_K] of the inputs start + k; `row` points to the packed rows. See `codes.pack`."""
    if BITS == 8:
        return tl.load(row[:, None] + start + k[None, :], mask=is_out[:, None], other=0).to(tl.int32)
    if BITS == 4:
        part = width // 2
        packed = tl.load(row[:, None] + start % part + k[None, :], mask=is_out[:, None], other=0).to(tl.int32)
        return (packed >> (start // part * 4)) & 15
    part = width // 4
    packed = tl.load(row[:, None] + start % part + k[None, :], mask=is_out[:, None], other=0).to(tl.int32)
    codes = (packed >> (start // part * 2)) & 3
    if BITS == 3:
        eighth = width // 8
        plane = row[:, None] + part + start % eighth + k[None, :]
        high = tl.load(plane, mask=is_out[:, None], other=0).to(tl.int32)
        codes += ((high >> (start // eighth)) & 1) * 4
    return codes


@triton.jit
def _look_up(  # type: ignore[no-untyped-def]
    x, packed, scale, offset, levels, y, rows, out, width, steps,
    BITS: tl.constexpr, GROUP: tl.constexpr, OFFSET: tl.constexpr, LEVELS: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, OPERAND: tl.constexpr,
):  # fmt: skip
    """One tile [BLOCK_N, BLOCK_M] of one split."""
    m = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    n = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    split = tl.program_id(2)
    k = tl.arange(0, BLOCK_K)
    is_row, is_out = m < rows, n < out
    row = packed + n.to(tl.int64) * (width * BITS // 8)
    total = tl.zeros((BLOCK_N, BLOCK_M), dtype=tl.float32)
    first = split * steps
    last = tl.minimum(first + steps, width // BLOCK_K)
    for step in range(first, last):
        start = step * BLOCK_K
        codes = _codes_at(row, start, k, width, is_out, BITS)
        values = tl.load(levels + codes) if LEVELS else codes.to(tl.float32)
        inputs = tl.load(x + m[None, :] * width + start + k[:, None], mask=is_row[None, :], other=0.0)
        dot = tl.dot(values.to(OPERAND), inputs.to(OPERAND), input_precision="ieee")
        at = start // GROUP * out + n
        total += dot * tl.load(scale + at, mask=is_out, other=0.0).to(tl.float32)[:, None]
        if OFFSET:
            sums = tl.sum(inputs.to(tl.float32), axis=0)
            total += tl.load(offset + at, mask=is_out, other=0.0).to(tl.float32)[:, None] * sums[None, :]
    y_at = y + (split * rows + m[None, :]).to(tl.int64) * out + n[:, None]
    tl.store(y_at, total, mask=is_out[:, None] & is_row[None, :])
