"""The Triton kernel of w4a16.py. Apart from it, because triton is there only with torch's CUDA build.

Run under triton's interpreter and compiled for several GPUs, but not yet run on one.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from specdecodes.quant.kernels.cuda.tiling import choose_tiling

OPERANDS = {torch.bfloat16: tl.bfloat16, torch.float16: tl.float16, torch.float32: tl.float32}


def partial_products(x: Tensor, sums: Tensor, nibbles: Tensor, scale: Tensor, offset: Tensor, splits: int) -> Tensor:
    """`x` [n, in] on the codes of `nibbles` [out, in / 2]: [splits, n, out] float32, whose sum is the product.

    `sums` [n, in / block] float32: of x over each block of `tiling.block_size`. `scale`, `offset` [groups, out]. Two
    launches of one shape do the same sums in the same order; nothing is waited for.
    """
    rows, width = x.shape
    out, groups = nibbles.shape[0], scale.shape[0]
    tiling = choose_tiling(rows, out, width, width // groups, splits)
    y = torch.empty(splits, rows, out, dtype=torch.float32, device=x.device)
    grid = (triton.cdiv(rows, tiling.rows), triton.cdiv(out, tiling.out), splits)
    _kernel[grid](
        x, sums, nibbles, scale, offset, y,
        rows, out, width // 2, tiling.steps_per_split,
        GROUP=width // groups, BLOCK_M=tiling.rows, BLOCK_N=tiling.out, BLOCK_K=tiling.block,
        OPERAND=OPERANDS[x.dtype] if x.is_cuda else tl.float32,  # the interpreter multiplies no bf16
        num_warps=tiling.warps, num_stages=tiling.stages,
    )  # fmt: skip
    return y


@triton.jit
def _codes(packed, bits: tl.constexpr, dtype: tl.constexpr):  # type: ignore[no-untyped-def]
    """Codes of one half of `packed`, those of the high half times 16, minus 8: one logical operation and one addition.

    2**23 + i is a float32 whose last bits are those of i.
    """
    middle: tl.constexpr = 8388608.0 + 8.0 * (bits & -bits)
    return (((packed & bits) | 0x4B000000).to(tl.float32, bitcast=True) - middle).to(dtype)


@triton.jit
def _scales(  # type: ignore[no-untyped-def]
    scale, offset, step, last, n, out, half, GROUP: tl.constexpr, BLOCK_K: tl.constexpr
):
    """Scales and offsets of the outputs `n`, of both blocks of a step before the `last`: low, high, low, high."""
    wanted = n < tl.where(step < last, out, 0)
    low = step * BLOCK_K // GROUP * out + n
    high = (half + step * BLOCK_K) // GROUP * out + n
    return (
        tl.load(scale + low, mask=wanted, other=0.0),
        tl.load(scale + high, mask=wanted, other=0.0),
        tl.load(offset + low, mask=wanted, other=0.0),
        tl.load(offset + high, mask=wanted, other=0.0),
    )


@triton.jit
def _sums(sums_at, step, last, m, rows, half, BLOCK_K: tl.constexpr):  # type: ignore[no-untyped-def]
    """Sums of x over both blocks of a step before the `last`."""
    wanted = m < tl.where(step < last, rows, 0)
    low = tl.load(sums_at + step, mask=wanted, other=0.0)
    return low, tl.load(sums_at + half // BLOCK_K + step, mask=wanted, other=0.0)


@triton.jit
def _kernel(  # type: ignore[no-untyped-def]
    x, sums, nibbles, scale, offset, y, rows, out, half, steps_per_split,
    GROUP: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
    OPERAND: tl.constexpr,
):  # fmt: skip
    """One tile [BLOCK_N, BLOCK_M] of one split. A block of bytes serves two blocks of x: at k, and at half + k."""
    m = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    n = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    split = tl.program_id(2)
    k = tl.arange(0, BLOCK_K)
    is_row, is_out = m < rows, n < out
    bytes_at = nibbles + n[:, None].to(tl.int64) * half + k[None, :]
    x_at = x + m[None, :] * (2 * half) + k[:, None]
    sums_at = sums + m * (2 * half // BLOCK_K)
    total = tl.zeros((BLOCK_N, BLOCK_M), dtype=tl.float32)
    first = split * steps_per_split
    last = tl.minimum(first + steps_per_split, half // BLOCK_K)
    # What no dot takes the compiler does not load ahead, and every step would wait for it: taken a step early.
    next_scales = _scales(scale, offset, first, last, n, out, half, GROUP, BLOCK_K)
    next_sums = _sums(sums_at, first, last, m, rows, half, BLOCK_K)
    for step in range(first, last):
        start = step * BLOCK_K
        low_scale, high_scale, low_offset, high_offset = next_scales
        low_sums, high_sums = next_sums
        next_scales = _scales(scale, offset, step + 1, last, n, out, half, GROUP, BLOCK_K)
        next_sums = _sums(sums_at, step + 1, last, m, rows, half, BLOCK_K)
        packed = tl.load(bytes_at + start, mask=is_out[:, None], other=0).to(tl.int32)
        x_low = tl.load(x_at + start, mask=is_row[None, :], other=0.0)
        x_high = tl.load(x_at + half + start, mask=is_row[None, :], other=0.0)
        low = tl.dot(_codes(packed, 15, OPERAND), x_low.to(OPERAND), input_precision="ieee")
        high = tl.dot(_codes(packed, 240, OPERAND), x_high.to(OPERAND), input_precision="ieee")
        total += low * low_scale.to(tl.float32)[:, None]
        total += high * (high_scale.to(tl.float32) * 0.0625)[:, None]
        total += low_offset.to(tl.float32)[:, None] * low_sums[None, :]
        total += high_offset.to(tl.float32)[:, None] * high_sums[None, :]
    y_at = y + (split * rows + m[None, :]).to(tl.int64) * out + n[:, None]
    tl.store(y_at, total, mask=is_out[:, None] & is_row[None, :])
