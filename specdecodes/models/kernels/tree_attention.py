"""Attention of a few rows over a long cache on CUDA: three Triton launches of fixed shapes, nothing waited for.

The window is read from the device, so that one CUDA graph serves a growing cache. Keys of the window are shared out
among a fixed number of splits, each with a softmax of its own; the last launch puts them together. Run under triton's
interpreter and compiled for several GPUs, but not yet run on one.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from specdecodes.models.kernels.cache_codes import LEVELS, turn

OPERANDS = {torch.bfloat16: tl.bfloat16, torch.float16: tl.float16, torch.float32: tl.float32}
LOG2_E = 1.4426950408889634
PROGRAMS_PER_PROCESSOR = 2
SPLIT_SLOTS = 128  # slots that a split looks at in a full cache, at least
MAX_SPLITS = 64
COMBINED = 2048  # numbers that one warp has registers for
HELD = 64 * 64  # numbers of a tile of results that four warps have registers for, beside all else
_LEVELS, _FINITE = tl.constexpr(LEVELS), tl.constexpr(3.4028234e38)
_ROUNDS = tl.constexpr(12582912.0)  # a sum of about 1.5 * 2^23 has no fraction left


@dataclass(frozen=True)
class Cut:
    """How attention is cut into programs: `rows` of queries by `slots` of keys at a time, in `splits` of the window."""

    rows: int
    slots: int
    splits: int
    warps: int


def choose_cut(queries: int, heads: int, slots: int, head_dim: int, itemsize: int, processors: int) -> Cut:
    """For `queries` rows a key head (tokens x heads that share it), `heads` key heads of all requests, a cache of
    `slots`."""
    rows = min(max(16, 1 << (queries - 1).bit_length()), 16 if itemsize == 4 else 64)
    row_bytes = max(head_dim, 64) * itemsize
    programs = -(-queries // rows) * heads
    wanted = -(-PROGRAMS_PER_PROCESSOR * processors // programs)
    splits = max(1, min(wanted, -(-slots // SPLIT_SLOTS), MAX_SPLITS))
    seen = 64 if row_bytes <= 128 else 32 if row_bytes <= 512 else 16
    return Cut(rows, seen, 1 << (splits - 1).bit_length(), 4 if rows * head_dim <= HELD else 8)


def parts_bytes(rows: int, heads: int, kv_heads: int, slots: int, head_dim: int, itemsize: int) -> int:
    """Memory for the splits' results of one request, on this machine's GPU."""
    queries = rows * (heads // kv_heads)
    cut = choose_cut(queries, kv_heads, slots, head_dim, itemsize, _processors(torch.device("cuda")))
    return cut.splits * rows * heads * (head_dim + 1) * 4


def tree_attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    keys: Tensor,
    values: Tensor,
    slots: Tensor,
    mask: Tensor,
    window: Tensor,
    scale: float,
) -> Tensor:
    """Write `key`, `value` [B, M, kv_heads, D] at `slots` [M] of `keys`, `values` [B, kv_heads, slots, D]; attend.

    `query` [B, M, heads, D]; `window` [2] int64 on the device: the slots [start, stop) looked at; `mask` [B, M, >= stop
    - start] bool, its first column at slot `start`. Returns [B, M, heads, D]; a row that sees nothing is zero. D is at
    most 256. Summed in fp32; the same shapes give the same bits. A cache may be in 8 bits, see `cache_codes`.
    """
    coded = keys.dtype == torch.int8
    if coded:
        query, key = turn(query).to(query.dtype), turn(key)
    steps = [rows.view(torch.float32) if coded else rows for rows in (keys, values)]
    batch, count, heads, width = query.shape
    kv_heads, capacity = keys.shape[1], keys.shape[2]
    queries = count * (heads // kv_heads)
    cut = choose_cut(queries, batch * kv_heads, capacity, width, query.element_size(), _processors(query.device))
    query, padded = query.contiguous(), triton.next_power_of_2(width)
    # Splits behind a short window stay unwritten, and are not read.
    parts = torch.empty(cut.splits, batch, count, heads, width, dtype=torch.float32, device=query.device)
    levels = torch.empty(cut.splits, batch, count, heads, dtype=torch.float32, device=query.device)
    out = torch.empty_like(query)
    with torch.cuda.device_of(query):
        _store[(batch * count, kv_heads)](
            key, value, keys, values, *steps, slots, count, width, key.stride(0), key.stride(1), key.stride(2),
            value.stride(0), value.stride(1), value.stride(2), keys.stride(0), keys.stride(1), keys.stride(2),
            keys.shape[3] - 4, D=padded, CODED=coded, num_warps=1,
        )  # fmt: skip
        _attend[(triton.cdiv(queries, cut.rows), batch * kv_heads, cut.splits)](
            query, keys, values, *steps, mask, window, parts, levels, scale * LOG2_E, batch, count, width, kv_heads,
            heads // kv_heads, mask.stride(0), mask.stride(1), keys.stride(0), keys.stride(1), keys.stride(2),
            keys.shape[3] - 4, SPLITS=cut.splits, ROWS=cut.rows, SLOTS=cut.slots, D=padded, CODED=coded,
            OPERAND=OPERANDS[query.dtype] if query.is_cuda else tl.float32,  # the interpreter multiplies no bf16
            num_warps=cut.warps, num_stages=2,
        )  # fmt: skip
        _combine[(batch * count * heads,)](
            parts, levels, out, batch * count * heads, width, SPLITS=cut.splits, D=padded,
            num_warps=1 if cut.splits * padded <= COMBINED else 4,
        )  # fmt: skip
    return out


def _processors(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 4


@triton.jit
def _store(  # type: ignore[no-untyped-def]
    key, value, keys, values, key_steps, value_steps, slots, count, width, key_b, key_m, key_h, value_b, value_m,
    value_h, cache_b, cache_h, cache_s, step_at, D: tl.constexpr, CODED: tl.constexpr,
):  # fmt: skip
    """One row of one head, into its slot."""
    request, token = tl.program_id(0) // count, tl.program_id(0) % count
    head = tl.program_id(1)
    d = tl.arange(0, D)
    slot = tl.load(slots + token)
    place = request.to(tl.int64) * cache_b + head.to(tl.int64) * cache_h + slot * cache_s
    key_row = tl.load(key + request * key_b + token * key_m + head * key_h + d, mask=d < width, other=0.0)
    value_row = tl.load(value + request * value_b + token * value_m + head * value_h + d, mask=d < width, other=0.0)
    if CODED:
        _encode(key_row.to(tl.float32), keys + place + d, key_steps + (place + step_at) // 4, d < width)
        _encode(value_row.to(tl.float32), values + place + d, value_steps + (place + step_at) // 4, d < width)
    else:
        tl.store(keys + place + d, key_row, d < width)
        tl.store(values + place + d, value_row, d < width)


@triton.jit
def _encode(x, codes, steps, inside):  # type: ignore[no-untyped-def]
    """The numbers `x` as codes and their step; what is not finite stays so."""
    step = tl.max(tl.abs(x), 0) / _LEVELS
    step = tl.where(tl.sum(tl.where(tl.abs(x) <= _FINITE, 0, 1), 0) == 0, step, float("nan"))
    whole = (x / tl.where(step > 0, step, 1.0) + _ROUNDS) - _ROUNDS  # to nearest, ties to even
    tl.store(codes, tl.where(step > 0, whole, 0.0).to(tl.int8), inside)
    tl.store(steps, step)


@triton.jit
def _attend(  # type: ignore[no-untyped-def]
    query, keys, values, key_steps, value_steps, mask, window, parts, levels, scale, batch, count, width, kv_heads,
    group, mask_b, mask_m, cache_b, cache_h, cache_s, step_at, SPLITS: tl.constexpr, ROWS: tl.constexpr,
    SLOTS: tl.constexpr, D: tl.constexpr, CODED: tl.constexpr, OPERAND: tl.constexpr,
):  # fmt: skip
    """A tile of the query rows of one key head, on one split of the window: their softmax there, and its level."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    request, head = tl.program_id(1) // kv_heads, tl.program_id(1) % kv_heads
    split = tl.program_id(2)
    d, s = tl.arange(0, D), tl.arange(0, SLOTS)
    is_row, is_d = row < count * group, d < width
    place = (request * count + row // group) * (kv_heads * group) + head * group + row % group
    inside = is_row[:, None] & is_d[None, :]
    q = tl.load(query + place[:, None].to(tl.int64) * width + d[None, :], mask=inside, other=0.0).to(OPERAND)
    start = tl.load(window)
    span = (tl.load(window + 1) - start).to(tl.int32)
    share = tl.cdiv(tl.cdiv(span, SPLITS), SLOTS) * SLOTS
    first = split * share
    last = tl.minimum(first + share, span)
    cache = request.to(tl.int64) * cache_b + head.to(tl.int64) * cache_h + start * cache_s
    seen_row = mask + request.to(tl.int64) * mask_b + (row // group).to(tl.int64) * mask_m
    top = tl.full((ROWS,), float("-inf"), dtype=tl.float32)
    weight = tl.zeros((ROWS,), dtype=tl.float32)
    total = tl.zeros((ROWS, D), dtype=tl.float32)
    for begin in range(first, last, SLOTS):
        column = begin + s
        is_slot = column < last
        at = cache + column[:, None] * cache_s + d[None, :]
        here = is_slot[:, None] & is_d[None, :]
        k = tl.load(keys + at, mask=here, other=0)
        v = tl.load(values + at, mask=here, other=0)
        if CODED:
            step = (cache + column * cache_s + step_at) // 4
            k = k.to(tl.float32) * tl.load(key_steps + step, mask=is_slot, other=0.0)[:, None]
            v = v.to(tl.float32) * tl.load(value_steps + step, mask=is_slot, other=0.0)[:, None]
        seen_at = seen_row[:, None] + column[None, :]
        seen = tl.load(seen_at, mask=is_row[:, None] & is_slot[None, :], other=0) != 0
        scores = tl.where(seen, tl.dot(q, tl.trans(k.to(OPERAND)), input_precision="ieee") * scale, float("-inf"))
        higher = tl.maximum(top, tl.max(scores, 1))
        base = tl.where(higher == float("-inf"), 0.0, higher)  # nothing seen yet: -inf minus -inf would be no number
        shares = tl.exp2(scores - base[:, None])
        fade = tl.exp2(top - base)
        weight = weight * fade + tl.sum(shares, 1)
        total = total * fade[:, None] + tl.dot(shares.to(OPERAND), v.to(OPERAND), input_precision="ieee")
        top = higher
    safe = tl.where(weight == 0.0, 1.0, weight)
    out = (split * batch * count * kv_heads * group + place).to(tl.int64)
    if first < last:
        tl.store(parts + out[:, None] * width + d[None, :], total / safe[:, None], mask=inside)
    tl.store(levels + out, tl.where(weight == 0.0, float("-inf"), top + tl.log2(safe)), mask=is_row)


@triton.jit
def _combine(parts, levels, out, rows, width, SPLITS: tl.constexpr, D: tl.constexpr):  # type: ignore[no-untyped-def]
    """One row of one head: its splits' results, each by its part of the softmax."""
    row = tl.program_id(0).to(tl.int64)
    split, d = tl.arange(0, SPLITS), tl.arange(0, D)
    level = tl.load(levels + split * rows + row)
    top = tl.max(level, 0)
    shares = tl.exp2(level - tl.where(top == float("-inf"), 0.0, top))
    shares = shares / tl.maximum(tl.sum(shares, 0), 1e-30)
    at = parts + (split[:, None] * rows + row) * width + d[None, :]
    part = tl.load(at, mask=(level > float("-inf"))[:, None] & (d < width)[None, :], other=0.0)
    tl.store(out + row * width + d, tl.sum(part * shares[:, None], 0).to(out.dtype.element_ty), mask=d < width)
