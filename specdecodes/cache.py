"""Keys and values of all layers, and the one number that says how many of them are committed.

Slots along the sequence axis: [0, draft_nodes) is the draft's tree region, then the committed rows, and directly after
them the target's tree region, which the next committed rows grow into. Two regions, so that drafting never reads rows
that a verification has half written.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class CacheShape:
    """What a cache holds; `nbytes` is what it takes."""

    layers: int
    kv_heads: int
    head_dim: int
    max_length: int  # committed rows at most
    draft_nodes: int = 0  # rows of the draft's region
    target_nodes: int = 1  # rows of the target's region: the widest pass
    batch: int = 1
    int8: bool = False  # rows are codes of 8 bits, each with its step: see `models.kernels.cache_codes`

    @property
    def slots(self) -> int:
        return self.draft_nodes + self.max_length + self.target_nodes

    def nbytes(self, itemsize: int) -> int:
        """`itemsize`: of a number, in a cache of such."""
        row = coded_width(self.head_dim) if self.int8 else self.head_dim * itemsize
        return 2 * self.layers * self.batch * self.kv_heads * self.slots * row


def coded_width(head_dim: int) -> int:
    """Bytes of a row in 8 bits: its codes, filled up to a multiple of four, and a step in float32."""
    return -(-head_dim // 4) * 4 + 4


class KVCache:
    """`keys`, `values` [layers, B, kv_heads, slots, head_dim], or in 8 bits [..., coded_width(head_dim)] int8, so that
    a row moves with its step; `length` committed rows, owned by this object alone.

    `count` [1] int64 is the length on the device, for steps that must not ask the host.
    """

    def __init__(self, shape: CacheShape, dtype: torch.dtype, device: torch.device | str = "cpu") -> None:
        width, stored = (coded_width(shape.head_dim), torch.int8) if shape.int8 else (shape.head_dim, dtype)
        size = (shape.layers, shape.batch, shape.kv_heads, shape.slots, width)
        # Zeros, never empty: a masked slot still enters the value sum as 0 * value, and NaN would survive that.
        self.keys = torch.zeros(size, dtype=stored, device=device)
        self.values = torch.zeros(size, dtype=stored, device=device)
        self.shape = shape
        self.count = torch.zeros(1, dtype=torch.int64, device=device)
        self._length = 0

    @property
    def length(self) -> int:
        return self._length

    def _set_length(self, length: int) -> None:
        self._length = length
        self.count.fill_(length)

    @property
    def start(self) -> int:
        """Slot of the first committed row."""
        return self.shape.draft_nodes

    @property
    def end(self) -> int:
        """Slot of node 0 in the target's region."""
        return self.start + self.length

    def keep(self, nodes: Tensor, *, drafted: bool = False) -> None:
        """Commit tree rows `nodes` [n] (int64, path order) of the target's region, or of the draft's; moves only
        those."""
        count = nodes.shape[0]
        if self.length + count > self.shape.max_length:
            raise ValueError(f"{self.length} + {count} rows exceed the cache's {self.shape.max_length}")
        source = nodes if drafted else self.end + nodes
        target = torch.arange(self.end, self.end + count, device=nodes.device)
        for rows in (self.keys, self.values):
            rows.index_copy_(3, target, rows.index_select(3, source))
        self._set_length(self.length + count)

    def commit(self, count: int) -> None:
        """Commit the first `count` rows of the target's region, where they lie (a chain, such as a prompt)."""
        self._set_length(self.length + count)

    def truncate(self, length: int) -> None:
        """Forget committed rows from `length` on."""
        if not 0 <= length <= self.length:
            raise ValueError(f"cannot truncate {self.length} rows to {length}")
        self._set_length(length)

    def clear(self) -> None:
        """Forget everything, junk rows included (after a model computed NaN)."""
        self._set_length(0)
        self.keys.zero_()
        self.values.zero_()
