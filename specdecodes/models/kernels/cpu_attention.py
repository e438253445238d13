"""Attention on the CPU by a kernel of our own (cpu_attention.cpp), for any number of rows, exact or not.

Torch's attention takes twice as long for four rows (in float16 ten times, and for any number of rows twice), and is
about as fast for hundreds. Where the processor has dot products of bfloat16 pairs, rows of those are multiplied with
them, outside exact mode (cpu_attention_bf16.h). In exact mode, the same sums in fp64 by torch take three to five times
as long. Where the kernel cannot be built, torch does it all.
"""

from __future__ import annotations

import ctypes
import functools
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from specdecodes.native import address, load_if_built

SOURCE = Path(__file__).with_suffix(".cpp")
TILE, STRIPE, BLOCK = 64, 512, 32  # queries, slots and dims that a thread holds at a time, as in the source


@functools.cache
def _library() -> ctypes.CDLL | None:
    library = load_if_built(SOURCE).library
    if library is None:
        return None
    for function in (library.attend_bfloat16, library.attend_float16, library.attend_float):
        function.argtypes = [*[ctypes.c_void_p] * 8, ctypes.c_double, ctypes.c_void_p, ctypes.c_int]
        function.restype = ctypes.c_int
    return library


def fits(query: Tensor, keys: Tensor) -> bool:
    """Whether the kernel takes `query` [B, M, heads, D] on the cache rows `keys` [B, kv_heads, slots, ...]."""
    return (
        query.device.type == "cpu"
        and query.shape[0] == 1
        and query.dtype in (torch.bfloat16, torch.float16, torch.float32)
        and keys.is_contiguous()
        and is_built()
    )


def is_built() -> bool:
    return _library() is not None


def shares(dtype: torch.dtype) -> tuple[int, int, int]:
    """Where its parts lie, for a kernel whose threads share them: how many queries go together, writing a row, and one
    tile of queries. `is_built` is asked before."""
    library = _library()
    assert library is not None, "is_built() comes first"
    halves = {
        torch.bfloat16: (library.write_bfloat16, library.item_bfloat16),
        torch.float16: (library.write_float16, library.item_float16),
    }
    write, item = halves.get(dtype, (library.write_float, library.item_float))
    return address(library.attend_tile), address(write), address(item)


def _function(library: ctypes.CDLL, dtype: torch.dtype) -> Any:
    halves = {torch.bfloat16: library.attend_bfloat16, torch.float16: library.attend_float16}
    return halves.get(dtype, library.attend_float)


def scratch_bytes(head_dim: int, exact: bool) -> int:
    """Working memory of all threads together."""
    dims = -(-head_dim // BLOCK) * BLOCK
    return torch.get_num_threads() * (TILE * (2 * dims + STRIPE) + BLOCK * dims) * (8 if exact else 4)


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    keys: Tensor,
    values: Tensor,
    slots: Tensor,
    mask: Tensor,
    window: tuple[int, int],
    scale: float,
    exact: bool,
) -> Tensor:
    """As `attention.attend`, for what `fits`; `window`: the first slot looked at, and the one behind the last."""
    library = _library()
    assert library is not None, "fits() comes first"
    start, stop = window
    shape = (1, query.shape[1], keys.shape[1], query.shape[3])
    if key.shape != shape or value.shape != shape or stop > keys.shape[2] or mask.shape[2] < stop - start:
        raise RuntimeError(f"keys {list(key.shape)}, values {list(value.shape)}: the cache takes {list(shape)}")
    query, key, value, mask = query.contiguous(), _whole_rows(key), _whole_rows(value), mask.contiguous()
    rows, heads, dim = query.shape[1:]
    out = torch.empty_like(query)
    numbers = (rows, heads, keys.shape[1], dim, keys.shape[2], start, stop, mask.stride(1), key.stride(1))
    outside = _function(library, query.dtype)(
        query.data_ptr(),
        key.data_ptr(),
        value.data_ptr(),
        keys.data_ptr(),
        values.data_ptr(),
        slots.data_ptr(),
        mask.data_ptr(),
        out.data_ptr(),
        scale,
        (ctypes.c_int64 * 11)(*numbers, value.stride(1), keys.dtype == torch.int8),
        exact,
    )
    if outside:
        raise IndexError(f"cache slots {slots.tolist()} of {keys.shape[2]}")
    return out


def _whole_rows(x: Tensor) -> Tensor:
    """`x` [1, M, kv_heads, D] such that a row lies in one piece; rows may lie apart."""
    return x if x.stride(3) == 1 and x.stride(2) == x.shape[3] else x.contiguous()
