"""Lossless compression of 16-bit weights by a codec of our own (codec.cpp; codec.h describes the format).

Trained and normally distributed bfloat16 weights take 67.1% of their bytes (the entropy of their exponents: 65.9%),
float16 ones 85.9%. Measured on one Zen 4 core, in weights restored: 11 GB/s by AVX-512, 2.4 GB/s by BMI2, 0.5
GB/s by plain C++. zstd on the exponents alone gives 68.0% at 1.5 GB/s, a Huffman code (zlib's) 66.2% at 0.5 GB/s, both
before exponents and mantissas are joined.
"""

from __future__ import annotations

import ctypes
import functools
import time
from pathlib import Path

import torch
from torch import Tensor

from specdecodes.errors import CompileError
from specdecodes.native import load
from specdecodes.offload.storage.store import huge_pages

KINDS = {torch.bfloat16: 0, torch.float16: 1}
"""The number of each type that can be compressed, as the format has it."""

WAYS = ("plain C++", "BMI2", "AVX-512")
_SAMPLE = 8 * 2**20  # weights: a block's, more than a core's own cache holds


@functools.cache
def _library() -> ctypes.CDLL:
    library = load(Path(__file__).with_suffix(".cpp"))
    pointer, count, number = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int
    library.codec_bound.argtypes, library.codec_bound.restype = [count, number], count
    library.codec_compress.argtypes, library.codec_compress.restype = [pointer, count, number, pointer], count
    library.codec_check.argtypes = [pointer, count, count]
    library.codec_expand.argtypes = [pointer, count, pointer, count, number, number]
    return library


def missing() -> str:
    """Why the codec cannot run here; empty where it can."""
    try:
        _library()
    except (CompileError, OSError) as error:
        return f"compression needs its kernel: {error}"
    return ""


def way() -> str:
    """How blocks are expanded on this processor."""
    return WAYS[_library().codec_best()]


def bound(nbytes: int, dtype: torch.dtype) -> int:
    """Bytes that a block of `nbytes` bytes of weights takes at most."""
    return _library().codec_bound(-(-nbytes // 2), KINDS[dtype])


def compress(raw: Tensor, dtype: torch.dtype) -> Tensor:
    """A block of the bytes `raw` [n] of weights of `dtype`, n even; any bits come back. Raises CompileError."""
    if raw.dtype != torch.uint8 or not raw.is_contiguous() or raw.numel() % 2 or raw.device.type != "cpu":
        raise ValueError("compress takes an even number of contiguous bytes in host memory")
    block = huge_pages(bound(raw.numel(), dtype))
    size = _library().codec_compress(raw.data_ptr(), raw.numel() // 2, KINDS[dtype], block.data_ptr())
    return block[:size]


def sound(block: Tensor, nbytes: int) -> bool:
    """Whether `block` is an undamaged one of `nbytes` bytes."""
    return _library().codec_check(block.data_ptr(), block.numel(), nbytes // 2) == 0


def expand(block: Tensor, out: Tensor, *, way: str | None = None, threads: int = 1) -> bool:
    """Restores the bytes `out` [n] from `block`; False when the block is damaged, or not one of n bytes.

    Other threads run meanwhile. `way`: one of WAYS that this processor has, None for the fastest. `threads` share it.
    """
    library = _library()
    best = library.codec_best()
    chosen = best if way is None else WAYS.index(way)
    if chosen > best or out.numel() % 2 or not (block.is_contiguous() and out.is_contiguous()):
        raise ValueError(f"{way} is not to be had here, or these are not whole weights")
    size, weights = block.numel(), out.numel() // 2
    return library.codec_expand(block.data_ptr(), size, out.data_ptr(), weights, chosen, threads) == 0


@functools.cache
def core_gbps(cores: int = 1) -> float:
    """GB/s of weights restored by each of so many cores, which share a block and the memory: the best of three, on
    normally distributed weights."""
    generator = torch.Generator().manual_seed(0)
    raw = torch.randn(cores * _SAMPLE, generator=generator).bfloat16().view(torch.uint8)
    block, out, best = compress(raw, torch.bfloat16), torch.zeros_like(raw), float("inf")
    for _ in range(3):
        start = time.perf_counter()
        expand(block, out, threads=cores)
        best = min(best, time.perf_counter() - start)
    return raw.numel() / cores / best / 1e9
