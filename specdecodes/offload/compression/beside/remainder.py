"""What is left of bfloat16 weights beside a 4-bit guess of each, and the weights again, bit for bit (remainder.cpp; the
format is in remainder.h, what a guess says in guess.h).

Normally distributed weights beside codes of 4 bits take 55.5% of their bytes in groups of 64 (54.8% in groups of 32,
56.0% of 128), the demo model's 56.1%; one weight in 14000 is an exception. Measured on one Zen 4 core of a busy host,
in weights restored (the usual rate, and the best): 7 to 10 GB/s by AVX-512, 3.5 to 4.8 GB/s by AVX2, 0.7 to 0.8 GB/s by
plain C++; each of two cores a tenth less.
"""

from __future__ import annotations

import ctypes
import functools
import time
from pathlib import Path

import torch
from torch import Tensor

from specdecodes.errors import CompileError
from specdecodes.native import load, missing_triton
from specdecodes.offload.compression.beside import remainder_reference
from specdecodes.offload.compression.beside.guess import HALVES, LANES, Guess
from specdecodes.offload.storage.store import huge_pages

WAYS = ("plain C++", "AVX2", "AVX-512")
_SAMPLE = (256, 4096)  # rows and width
_TIMES = 8  # it is restored by each core: more weights than a core's own cache holds


class _Guess(ctypes.Structure):
    """As in guess.h."""

    _fields_ = [(name, ctypes.c_void_p) for name in ("packed", "scale", "offset")] + [
        (name, ctypes.c_int64) for name in ("halves", "first", "rows", "width", "groups", "held")
    ]

    @classmethod
    def of(cls, guess: Guess) -> _Guess:
        if guess.packed.device.type != "cpu":
            raise ValueError("a guess in host memory is needed here")
        buffers = (guess.packed.data_ptr(), guess.scale.data_ptr(), guess.offset.data_ptr())
        return cls(
            *buffers, guess.layout == HALVES, guess.first, guess.rows, guess.width, guess.groups, guess.held_rows
        )


@functools.cache
def _library() -> ctypes.CDLL:
    library = load(Path(__file__).with_suffix(".cpp"))
    pointer, count, guess = ctypes.c_void_p, ctypes.c_int64, ctypes.POINTER(_Guess)
    library.remainder_bound.argtypes, library.remainder_bound.restype = [count, count], count
    library.remainder_compress.argtypes, library.remainder_compress.restype = [pointer, guess, pointer], count
    library.remainder_sound.argtypes = [pointer, count, count]
    library.remainder_expand.argtypes = [pointer, count, guess, pointer, ctypes.c_int, ctypes.c_int]
    return library


def missing() -> str:
    """Why remainders cannot be had here; empty where they can."""
    try:
        _library()
    except (CompileError, OSError) as error:
        return f"compression beside a substitute needs its kernel: {error}"
    return ""


def way() -> str:
    """How weights are restored on this processor."""
    return WAYS[_library().remainder_best()]


def compress(raw: Tensor, guess: Guess) -> Tensor:
    """What is left of the bytes `raw` [n] of bf16 weights, row by row, beside `guess`, on any device; any bits come
    back. Raises CompileError."""
    if raw.dtype != torch.uint8 or not raw.is_contiguous() or raw.device.type != "cpu" or raw.numel() != guess.nbytes:
        raise ValueError(f"compress takes the {guess.nbytes} contiguous bytes of the weights, in host memory")
    library = _library()
    here = guess.on_host()
    block = huge_pages(library.remainder_bound(here.rows, here.width))  # touched where it is used
    size = library.remainder_compress(raw.data_ptr(), _Guess.of(here), block.data_ptr())
    return block[:size]


def sound(block: Tensor, nbytes: int) -> bool:
    """Whether `block`, in host memory, is an undamaged one of `nbytes` bytes."""
    return _library().remainder_sound(block.data_ptr(), block.numel(), nbytes // 2) == 1


def expand(block: Tensor, guess: Guess, out: Tensor, *, way: str | None = None, threads: int = 1) -> bool:
    """Restores the bytes `out` [n], all in host memory; False when `block` is damaged, or not beside this guess.

    Other threads run meanwhile. `way`: one of WAYS that this processor has, None for the fastest. `threads` share it.
    """
    library = _library()
    best = library.remainder_best()
    chosen = best if way is None else WAYS.index(way)
    if chosen > best or not (block.is_contiguous() and out.is_contiguous()):
        raise ValueError(f"{way} is not to be had here, or these are no contiguous bytes")
    if out.numel() != guess.nbytes:
        return False
    size, known = block.numel(), _Guess.of(guess)
    return library.remainder_expand(block.data_ptr(), size, known, out.data_ptr(), chosen, threads) == 0


def expand_on(landing: Tensor, guess: Guess, out: Tensor) -> None:
    """Restores the bytes `out` [n] from a sound block at `landing`, beside `guess`, all on one device: by Triton's
    kernels where they can run, else by torch's own operations, which wait for the device."""
    if landing.device.type == "cuda" and guess.layout == HALVES and not missing_triton():
        from specdecodes.offload.compression.beside import remainder_kernel

        remainder_kernel.expand(landing, guess, out)
    else:
        remainder_reference.expand(landing, guess, out)


@functools.cache
def core_gbps(cores: int = 1) -> float:
    """GB/s of weights restored by each of so many cores, which share a block and the memory: the best of three, on
    normally distributed weights."""
    (one, raw), times = sample(*_SAMPLE), cores * _TIMES
    parts = (one.packed.repeat(times), one.scale.repeat(times, 1, 1), one.offset.repeat(times, 1, 1))
    guess, raw = Guess(*parts, LANES, 0, times * one.rows, one.width), raw.repeat(times)
    block, out, best = compress(raw, guess), torch.zeros_like(raw), float("inf")
    for _ in range(3):
        start = time.perf_counter()
        expand(block, guess, out, threads=cores)
        best = min(best, time.perf_counter() - start)
    return raw.numel() / cores / best / 1e9


def sample(rows: int, width: int, *, group: int = 64, layout: str = LANES) -> tuple[Guess, Tensor]:
    """A guess, and the bytes of weights that it might be of: codes as those of normally distributed ones."""
    generator = torch.Generator().manual_seed(0)
    codes = torch.randn(2, rows * width // 2, generator=generator).mul_(3.8).add_(7.5).round_().clamp_(0, 15).byte()
    shape = (rows // 16, width // group, 16) if layout == LANES else (width // group, rows)
    scale = torch.full(shape, 0.02 / 3.8, dtype=torch.float16)
    packed = (codes[0] | codes[1] << 4).view(-1 if layout == LANES else (rows, width // 2))
    guess = Guess(packed, scale, scale * (-7.5 if layout == LANES else 0.5), layout, 0, rows, width)
    values = remainder_reference.guessed(guess)
    values += (torch.rand(rows, width, generator=generator) - 0.5) * (0.02 / 3.8)
    return guess, values.bfloat16().flatten().view(torch.uint8)
