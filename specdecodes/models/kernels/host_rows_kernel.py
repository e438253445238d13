"""The Triton kernel of host_rows.py. Apart from it, because triton is there only with torch's CUDA build.

Run under triton's interpreter and compiled for several GPUs, but not yet run on one.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 1024  # elements a program copies: 16 bytes a thread, so that few and long reads cross the link
WARPS = 4


def fetch(tokens: Tensor, table: Tensor) -> Tensor:
    """Rows `tokens` [...] int64 of the contiguous `table` [vocab, hidden], whose memory the device of `tokens` can
    read: [..., hidden] there. Nothing is waited for."""
    width, ids = table.shape[1], tokens.reshape(-1).contiguous()
    rows = torch.empty(ids.shape[0], width, dtype=table.dtype, device=tokens.device)
    if ids.shape[0]:
        grid = (ids.shape[0], triton.cdiv(width, BLOCK))
        _copy_rows[grid](ids, table, rows, width, BLOCK=BLOCK, num_warps=WARPS)
    return rows.view(*tokens.shape, width)


@triton.jit
def _copy_rows(ids, table, rows, width, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    """A piece of one row; a large table has more elements than 32 bits count."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < width
    found = tl.load(table + tl.load(ids + row) * width + column, mask=inside)
    tl.store(rows + row * width + column, found, mask=inside)
