"""Attention over cache slots: writes a pass's keys and values, then attends through an explicit mask.

An operator of its own, so that compiled layers call it as it is: its window follows the live length without
recompiling, and exact mode can pin its arithmetic.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from specdecodes.models.kernels import cpu_attention
from specdecodes.models.kernels.cache_codes import decode, encode, turn
from specdecodes.native import missing_triton

EXACT_ROWS = 64
EVERYWHERE = 8192
"""Slots of a cache that a GPU in exact mode goes through whole. In a longer one it goes through the window alone, which
the host has to know."""

torch.library.define(  # a plain definition: torch's decorator for operators costs more than a small attention does
    "specdecodes::attend",
    "(Tensor query, Tensor key, Tensor value, Tensor(a!) keys, Tensor(b!) values, Tensor slots, Tensor mask, "
    "Tensor window, float scale, bool exact) -> Tensor",
)


@torch.library.impl("specdecodes::attend", "CompositeExplicitAutograd")
def _attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    keys: Tensor,
    values: Tensor,
    slots: Tensor,
    mask: Tensor,
    window: Tensor,
    scale: float,
    exact: bool,
) -> Tensor:
    """Write `key`, `value` [B, M, kv_heads, D] at `slots` [M] of `keys`, `values` [B, kv_heads, slots, D]; attend.

    A draft's `keys` and `values` may be rows in 8 bits, [B, kv_heads, slots, coded_width(D)] int8; never `exact`.
    `query` [B, M, heads, D]; `window` [2] int64: the slots [start, stop) looked at; `mask` [B, M, >= stop - start]
    bool, True to attend, every row with at least one True. Returns [B, M, heads, D].

    `window` lies on the host, or on a CUDA device: then it is read there and nothing waits, if `reads_there` says so.

    `exact` accumulates scores, softmax and value sum in fp64 and rounds once: the result no longer depends on where
    in the window a row's keys lie.
    """
    coded = keys.dtype == torch.int8
    assert not (coded and exact), "rows in 8 bits are a draft's, which is never exact"
    if window.is_cuda and not exact and not missing_triton():
        from specdecodes.models.kernels.tree_attention import tree_attend

        return tree_attend(query, key, value, keys, values, slots, mask, window, scale)
    if window.is_cuda and exact:
        _store(key, value, keys, values, slots)
        return _attend_everywhere(query, keys, values, mask, window, scale)
    start, stop = window.tolist()
    if cpu_attention.fits(query, keys):
        return cpu_attention.attend(query, key, value, keys, values, slots, mask, (start, stop), scale, exact)
    if coded:
        _store(encode(turn(key)), encode(value), keys, values, slots)
        return _attend_coded(query, keys, values, mask[:, :, : stop - start], start, scale)
    _store(key, value, keys, values, slots)
    seen_keys, seen_values = keys[:, :, start:stop], values[:, :, start:stop]
    visible = mask[:, None, :, : stop - start]
    queries = query.transpose(1, 2)
    if not exact:
        attended = F.scaled_dot_product_attention(
            queries, seen_keys, seen_values, attn_mask=visible, scale=scale, enable_gqa=True
        )
        return attended.transpose(1, 2).contiguous()
    return _in_fp64(query, seen_keys, seen_values, mask[:, :, : stop - start], scale)


def _attend_everywhere(
    query: Tensor, keys: Tensor, values: Tensor, mask: Tensor, window: Tensor, scale: float
) -> Tensor:
    """The exact `attend` over all slots of the cache, those outside the window weighing nothing: shapes never change,
    so that a CUDA graph serves any window."""
    column = torch.arange(keys.shape[2], device=mask.device) - window[0]
    inside = (column >= 0) & (column < window[1] - window[0])
    visible = mask.index_select(2, column.clamp(0, mask.shape[2] - 1)) & inside
    # What lies outside may be infinite, such as the rows of a draft that overflowed.
    return _in_fp64(query, keys, values.masked_fill(~inside[:, None], 0.0), visible, scale)


def _attend_coded(query: Tensor, keys: Tensor, values: Tensor, mask: Tensor, start: int, scale: float) -> Tensor:
    """`attend` on rows in 8 bits, on the window from `start` on that is as long as `mask` is wide. Numbers are made of
    them a head at a time, never of the whole cache."""
    turned = turn(query).to(query.dtype).transpose(1, 2)
    attended, groups = torch.empty_like(query, memory_format=torch.contiguous_format), query.shape[2] // keys.shape[1]
    window = slice(start, start + mask.shape[2])
    for head in range(keys.shape[1]):
        mine = slice(head * groups, (head + 1) * groups)
        wide = [decode(rows[:, head : head + 1, window], query.shape[3], query.dtype) for rows in (keys, values)]
        found = F.scaled_dot_product_attention(
            turned[:, mine], wide[0], wide[1], attn_mask=mask[:, None], scale=scale, enable_gqa=True
        )
        attended[:, :, mine] = found.transpose(1, 2)
    return attended


def _store(key: Tensor, value: Tensor, keys: Tensor, values: Tensor, slots: Tensor) -> None:
    keys.index_copy_(2, slots, key.transpose(1, 2))
    values.index_copy_(2, slots, value.transpose(1, 2))


def _in_fp64(query: Tensor, keys: Tensor, values: Tensor, mask: Tensor, scale: float) -> Tensor:
    """`query` [B, M, heads, D] on `keys`, `values` [B, kv_heads, S, D] where `mask` [B, M, S] allows: [B, M, heads, D].
    All sums are in fp64, and rounded once."""
    attended = torch.empty_like(query, memory_format=torch.contiguous_format)
    queries, visible, groups = query.transpose(1, 2), mask[:, None], query.shape[2] // keys.shape[1]
    # Some rows of one head at a time: fp64 scores of all would be large, and leave the cache.
    for head in range(keys.shape[1]):
        mine = slice(head * groups, (head + 1) * groups)
        wide_keys, wide_values = (seen[:, head].to(torch.float64) for seen in (keys, values))
        for first in range(0, query.shape[1], EXACT_ROWS):
            rows = slice(first, first + EXACT_ROWS)
            scores = _scores(queries[:, mine, rows], wide_keys, scale)
            weights = scores.masked_fill_(~visible[:, :, rows], float("-inf")).softmax(-1)
            sums = weights.flatten(1, 2) @ wide_values
            attended[:, rows, mine] = sums.unflatten(1, weights.shape[1:3]).transpose(1, 2).to(query.dtype)
    return attended


def reads_there(exact: bool, slots: int) -> bool:
    """Whether a CUDA device reads the windows of a cache of `slots` itself, and no host has to wait for it."""
    return slots <= EVERYWHERE if exact else not missing_triton()


def scratch_bytes(
    rows: int, slots: int, heads: int, kv_heads: int, head_dim: int, dtype: torch.dtype, device: str, exact: bool
) -> int:
    """Memory that `attend` takes beyond its arguments and its result, for one request, in a window of `slots`."""
    if device == "cuda" and not exact and not missing_triton():
        from specdecodes.models.kernels.tree_attention import parts_bytes

        return parts_bytes(rows, heads, kv_heads, slots, head_dim, dtype.itemsize)
    if device == "cpu" and cpu_attention.is_built():
        return cpu_attention.scratch_bytes(head_dim, exact)
    if not exact:
        return rows * slots * dtype.itemsize  # torch adds its mask, as numbers
    scores = 2 * min(rows, EXACT_ROWS) * -(-heads // kv_heads) * slots * 8
    everywhere = slots * (2 * rows + kv_heads * head_dim * dtype.itemsize) if device == "cuda" else 0
    return scores + 2 * slots * head_dim * 8 + everywhere


def _scores(queries: Tensor, keys: Tensor, scale: float) -> Tensor:
    """`queries` [B, groups, M, D] on one head's `keys` [B, S, D] in fp64: [B, groups, M, S]."""
    wide = (queries.to(torch.float64) * scale).flatten(1, 2)
    return (wide @ keys.transpose(-1, -2)).unflatten(1, queries.shape[1:3])


@torch.library.register_fake("specdecodes::attend")
def _attend_shape(query, key, value, keys, values, slots, mask, window, scale, exact):  # type: ignore[no-untyped-def]
    return torch.empty_like(query, memory_format=torch.contiguous_format)


attend = torch.ops.specdecodes.attend
