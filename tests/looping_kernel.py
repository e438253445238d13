"""A kernel that needs of triton's interpreter what ours do: a loop as long as a number says that it is given."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def count(total, stop):  # type: ignore[no-untyped-def]
    turns = 0
    for _ in range(tl.minimum(stop, 1), stop):
        turns += 1
    tl.store(total, turns)
