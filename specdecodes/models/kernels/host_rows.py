"""Rows of an embedding whose table lies in page-locked host memory: the device reads those that it needs by itself.

A step needs a few rows of a table that may take over a gigabyte. They come in one launch on the current stream, and
nothing waits on the host, so a CUDA graph may hold it. Run under triton's interpreter and compiled for several GPUs,
but not yet run on one.
"""

from __future__ import annotations

import math
import weakref

import torch
from torch import Tensor
from torch.nn import functional as F

from specdecodes.offload.storage.locked import HostMemory

torch.library.define("specdecodes::host_rows", "(Tensor tokens, Tensor table) -> Tensor")


@torch.library.impl("specdecodes::host_rows", ("CUDA", "CPU"))
def _host_rows(tokens: Tensor, table: Tensor) -> Tensor:
    """On the CPU under TRITON_INTERPRET=1 alone, for tests."""
    from specdecodes.models.kernels.host_rows_kernel import fetch

    with torch.cuda.device_of(tokens):
        return fetch(tokens, table)


@torch.library.register_fake("specdecodes::host_rows")
def _host_rows_shape(tokens: Tensor, table: Tensor) -> Tensor:
    return tokens.new_empty(*tokens.shape, table.shape[1], dtype=table.dtype)


def look_up(tokens: Tensor, table: Tensor) -> Tensor:
    """Rows `tokens` [B, M] of `table` [vocab, hidden], which lies beside them or is `page_locked` for their device:
    [B, M, hidden] there."""
    if table.device == tokens.device:
        return F.embedding(tokens, table)
    return torch.ops.specdecodes.host_rows(tokens, table)


def page_locked(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor | None:
    """Host memory that `device` reads by itself, locked for as long as the tensor lives; None where the system refuses
    to lock it."""
    memory = HostMemory(math.prod(shape) * dtype.itemsize, device)
    if not memory.locked:
        return None
    tensor = memory.bytes.view(dtype).view(shape)
    weakref.finalize(tensor, memory.release)
    return tensor
