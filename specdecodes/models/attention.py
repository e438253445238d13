"""Attention over cache slots: writes a pass's keys and values, then attends through an explicit mask.

An operator of its own, so that compiled layers call it as it is: its window follows the live length without
recompiling, and exact mode can pin its arithmetic.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


@torch.library.custom_op("specdecodes::attend", mutates_args=("keys", "values"))
def attend(
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

    `query` [B, M, heads, D]; `window` [2] int64 on the host: the slots [start, stop) looked at; `mask` [B, M, >= stop
    - start] bool, True to attend, every row with at least one True. Returns [B, M, heads, D].

    `exact` accumulates scores, softmax and value sum in fp64 and rounds once: the result no longer depends on where
    in the window a row's keys lie.
    """
    start, stop = window.tolist()
    keys.index_copy_(2, slots, key.transpose(1, 2))
    values.index_copy_(2, slots, value.transpose(1, 2))
    seen_keys, seen_values = keys[:, :, start:stop], values[:, :, start:stop]
    visible = mask[:, None, :, : stop - start]
    queries = query.transpose(1, 2)
    if not exact:
        attended = F.scaled_dot_product_attention(
            queries, seen_keys, seen_values, attn_mask=visible, scale=scale, enable_gqa=True
        )
        return attended.transpose(1, 2).contiguous()
    batch, rows, heads, dim = query.shape
    groups = heads // keys.shape[1]
    wide = (queries.to(torch.float64) * scale).reshape(batch, keys.shape[1], groups * rows, dim)
    scores = wide @ seen_keys.to(torch.float64).transpose(-1, -2)
    scores = scores.view(batch, -1, rows, stop - start).masked_fill_(~visible, float("-inf")).softmax(-1)
    attended = scores.view(batch, keys.shape[1], groups * rows, stop - start) @ seen_values.to(torch.float64)
    return attended.view(batch, heads, rows, dim).transpose(1, 2).to(query.dtype, memory_format=torch.contiguous_format)


@attend.register_fake
def _(query, key, value, keys, values, slots, mask, window, scale, exact):  # type: ignore[no-untyped-def]
    return torch.empty_like(query, memory_format=torch.contiguous_format)
