"""The Triton kernels that restore remainders (remainder.h) on a GPU, beside a substitute whose codes lie in halves.

One program a row, so that a row waits for no more than its own count of open weights; a second launch puts in the
exceptions. The host reads nothing. Apart from remainder.py, because triton is there only with torch's CUDA build. Run
under triton's interpreter and compiled for several GPUs, but not yet run on one.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from specdecodes.offload.compression.beside.guess import HALVES, Guess
from specdecodes.offload.compression.beside.remainder_reference import CHUNK

WARPS = 4
TILE = 32 * WARPS * 8
"""Columns at a time: eight a thread, whose words are one store of 16 bytes, so that nothing is exchanged for it."""

_MENDERS, _MENDED = 8, 1024  # programs that share the exceptions, and how many each takes at a time


def expand(block: Tensor, guess: Guess, out: Tensor) -> None:
    """Restores the bytes `out` [rows * width * 2] of the weights of `guess` from an undamaged `block`, which starts at
    a multiple of 4. All are on one device."""
    assert guess.layout == HALVES, "how codes lie on a GPU"
    group, half = guess.group, guess.width // 2
    numbers, words = block[: block.numel() // 4 * 4].view(torch.int32), out.view(torch.int16)
    _restore[(guess.rows,)](
        block, numbers, guess.packed, guess.scale, guess.offset, words, guess.rows, half, guess.first, guess.held_rows,
        GROUP=group, TILE=TILE, CHUNK=CHUNK, WHOLE=half % CHUNK == 0 and group % CHUNK == 0, num_warps=WARPS,
    )  # fmt: skip
    _mend[(_MENDERS,)](numbers, words, BLOCK=_MENDED, num_warps=WARPS)


@triton.jit(do_not_specialize=["rows", "first", "outputs"])
def _restore(  # type: ignore[no-untyped-def]
    block, numbers, packed, scale, offset, out, rows, half, first, outputs,
    GROUP: tl.constexpr, TILE: tl.constexpr, CHUNK: tl.constexpr, WHOLE: tl.constexpr,
):  # fmt: skip
    """One row of 2 * `half`. `WHOLE`: all of a chunk has one scale, and lies in one half of its codes' bytes."""
    row, width = tl.program_id(0), 2 * half
    low_at = block + (127 + 4 * (rows + 1)) // 64 * 64 + row.to(tl.int64) * width
    codes_at = packed + (first + row).to(tl.int64) * half
    out += row.to(tl.int64) * width
    tail = tl.load(numbers + 6) + tl.load(numbers + 16 + row)
    chunk, place = tl.arange(0, TILE // CHUNK)[:, None] * CHUNK, tl.arange(0, CHUNK)[None, :]
    for start in range(0, width, TILE):
        column = start + chunk + place
        asked = start + chunk if WHOLE else column  # what chunks have in common is worked out once for each
        inside, upper = asked < width, asked >= half
        table = asked // GROUP * outputs + first + row
        # What is not inside is as clear of zero as can be: 0 * code + 1.
        step = tl.load(scale + table, mask=inside, other=0.0).to(tl.float32)
        level = tl.load(offset + table, mask=inside, other=1.0).to(tl.float32)
        byte = column - upper.to(tl.int32) * half
        codes = tl.load(codes_at + byte, mask=inside, other=0).to(tl.int32)
        low = tl.load(low_at + column, mask=inside, other=0).to(tl.int32)
        word, is_open = _guessed(codes, upper, step, level, low)
        wanted = is_open.to(tl.int32)
        counts = (tl.sum(wanted, 1) + 1) >> 1
        bytes_at = tail + tl.cumsum(counts, 0) - counts
        tail += tl.sum(counts, 0)
        turn = tl.cumsum(wanted, 1) - wanted
        # Loaded for all weights, as a block does not end with its tails: without a condition it is three steps less.
        pair = tl.load(block + (bytes_at[:, None] + (turn >> 1))).to(tl.int32)
        word = tl.where(is_open, _spelled(pair * (256 - 240 * (turn & 1)), step, low), word)
        tl.store(out + column, word.to(tl.int16), mask=inside)


@triton.jit
def _guessed(codes, upper, step, level, low):  # type: ignore[no-untyped-def]
    """The word that ends in `low` and is nearest to the guess; and where there is none, as the guess is not clear of
    zero."""
    # A float32 of 2**23 + i ends in the bits of i; an upper code is 16 times as large. Each product is exact, so that
    # there is one rounding, with fma or without.
    bits, middle = tl.where(upper, 0xF0, 0x0F), tl.where(upper, 8388608.0 + 128.0, 8388608.0 + 8.0)
    code = ((codes | 0x4B000000) & (bits | 0x7F000000)).to(tl.float32, bitcast=True) - middle
    guess = code * (step * tl.where(upper, 0.0625, 1.0)) + level
    under, over = tl.abs(guess) - 0.5 * tl.abs(step), tl.abs(guess) + 0.5 * tl.abs(step)
    least, most = under.to(tl.int32, bitcast=True) >> 16, over.to(tl.int32, bitcast=True) >> 16
    is_open = (most - least > 252) | ~(under > 0.0)
    # The middle is t = (least + most + 1) >> 1, the high byte (t - low + 127) >> 8: here both shifts in one.
    high = ((least + most + 255 - 2 * low) >> 1) & 0x7F00
    return (guess.to(tl.int32, bitcast=True) >> 16) & 0x8000 | (high | low), is_open


@triton.jit
def _spelled(nibble, step, low):  # type: ignore[no-untyped-def]
    """The word that ends in `low`, of which bits 8 to 11 of `nibble` tell how far the rest of the high byte is below
    the largest that is likely, and the sign."""
    top = (1.5 * tl.abs(step)).to(tl.int32, bitcast=True) >> 16 & 0x7F00
    below = nibble & 0x700
    return (nibble << 4) & 0x8000 | tl.where(below == 0x700, 0, top - below) | low


@triton.jit
def _mend(numbers, out, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    """The exceptions: pairs of a place and its word."""
    count, entries = tl.load(numbers + 4), numbers + tl.load(numbers + 7) // 4
    for start in range(tl.program_id(0) * BLOCK, count, tl.num_programs(0) * BLOCK):
        entry = start + tl.arange(0, BLOCK)
        place = tl.load(entries + 2 * entry, mask=entry < count, other=0)
        word = tl.load(entries + 2 * entry + 1, mask=entry < count, other=0)
        tl.store(out + place, word.to(tl.int16), mask=entry < count)
