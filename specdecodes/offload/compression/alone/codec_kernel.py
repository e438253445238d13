"""The Triton kernel that expands the blocks of codec.h on a GPU: one program a group, no program waits for another.

Apart from codec.py, because triton is there only with torch's CUDA build. Run under triton's interpreter and compiled
for several GPUs, but not yet run on one.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from specdecodes.offload.compression.alone.codec_reference import ENTRY, GROUP, HEADER, Planes


def expand(block: Tensor, out: Tensor, dtype: torch.dtype) -> None:
    """Restores the bytes `out` [n] of weights of `dtype` from an undamaged `block`, which starts at a multiple of 4."""
    weights = out.numel() // 2
    planes = Planes.of(weights, dtype)
    whole = block[: block.numel() // 4 * 4]
    _kernel[(planes.groups,)](
        block, whole.view(torch.int32), out.view(torch.int16), weights,
        planes.low, planes.codes, planes.mantissas, planes.signs,
        FLOAT16=dtype == torch.float16, GROUP=GROUP, HEADER=HEADER, ENTRY=ENTRY, num_warps=8,
    )  # fmt: skip


@triton.jit
def _pair(block, start, places):  # type: ignore[no-untyped-def]
    """Two bits at each of `places`, counted from byte `start`."""
    return (tl.load(block + start + places // 4).to(tl.int32) >> (2 * (places % 4))) & 3


@triton.jit
def _turn(waiting):  # type: ignore[no-untyped-def]
    """How many wait before each one; 0 for the first and for those before it."""
    return tl.maximum(tl.cumsum(waiting, 0) - 1, 0)


@triton.jit
def _kernel(  # type: ignore[no-untyped-def]
    block, numbers, out, weights, low_at, codes_at, mantissas_at, signs_at,
    FLOAT16: tl.constexpr, GROUP: tl.constexpr, HEADER: tl.constexpr, ENTRY: tl.constexpr,
):  # fmt: skip
    """One group. Every level looks up what it can; how many weights before this one could not says where it goes on."""
    group = tl.program_id(0)
    entry = HEADER + group * ENTRY
    tail = tl.load(numbers + entry // 4)
    counts = tl.load(numbers + entry // 4 + 2)
    second, third = counts & 0xFFFF, (counts >> 16) & 0xFFFF
    table = block + entry + 14
    place = group * GROUP + tl.arange(0, GROUP)
    code = _pair(block, codes_at, place)
    exponent = tl.load(table + code).to(tl.int32)
    waiting = (code == 3).to(tl.int32)
    if second > 0:  # else exponents alone
        code = _pair(block, tail, _turn(waiting))
        exponent = tl.where(waiting == 1, tl.load(table + 3 + code).to(tl.int32), exponent)
        waiting = waiting * (code == 3).to(tl.int32)
        tail += (second + 3) // 4
        code = _pair(block, tail, _turn(waiting))
        exponent = tl.where(waiting == 1, tl.load(table + 6 + code).to(tl.int32), exponent)
        waiting = waiting * (code == 3).to(tl.int32)
        tail += (third + 3) // 4
    exponent = tl.where(waiting == 1, tl.load(block + tail + _turn(waiting)).to(tl.int32), exponent)
    low = tl.load(block + low_at + place).to(tl.int32)
    if FLOAT16:
        sign = (tl.load(block + signs_at + place // 8).to(tl.int32) >> (place % 8)) & 1
        word = (sign << 15) | (exponent << 10) | (_pair(block, mantissas_at, place) << 8) | low
    else:
        word = ((low & 0x80) << 8) | (exponent << 7) | (low & 0x7F)
    tl.store(out + place, word.to(tl.int16), mask=place < weights)
