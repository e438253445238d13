"""The format of remainder.h in torch operations, on any device: what the kernels are tested against, and what runs on
an accelerator that has no Triton."""

from __future__ import annotations

import torch
from torch import Tensor

from specdecodes.offload.compression.beside.guess import BLOCK, LANES, Guess

HEADER, CHUNK, SLACK = 64, 64, 64
UNIT = 4  # blocks side by side
_WEIGHTS = 2**21  # restored at a time: some 100 MB of indices


def places(rows: int, width: int) -> tuple[int, int]:
    """Where the low plane and the tails of a block begin, in bytes."""
    low = -(-(HEADER + 4 * (rows + 1)) // 64) * 64
    return low, low + -(-rows * width // 64) * 64


def expand(block: Tensor, guess: Guess, out: Tensor) -> None:
    """Restores the bytes `out` [n] of weights from an undamaged `block` beside `guess`, on the device of all."""
    low_at, tails_at = places(guess.rows, guess.width)
    words = out.view(torch.int16).view(guess.rows, guess.width)
    starts = _numbers(block, HEADER, guess.rows)
    low = block[low_at : low_at + guess.rows * guess.width].view(guess.rows, guess.width)
    step = max(_WEIGHTS // guess.width, 1)
    for first in range(0, guess.rows, step):
        part = slice(first, min(first + step, guess.rows))
        own = guess.part(part.start, part.stop - part.start)
        words[part] = _words(block, tails_at + starts[part], own, low[part].int())
    count, at = _numbers(block, 16, 1), _numbers(block, 28, 1)
    exceptions = _numbers(block, int(at), 2 * int(count)).view(-1, 2)
    words.view(-1)[exceptions[:, 0]] = _int16(exceptions[:, 1])


def guessed(guess: Guess) -> Tensor:
    """[rows, width] float32, on the device of the guess."""
    codes, scale, offset = _parts(guess)
    return codes * scale + offset


def _words(block: Tensor, starts: Tensor, guess: Guess, low: Tensor) -> Tensor:
    """[rows, width] weights as int16; `low` [rows, width] int32, `starts` [rows]: where each row's nibbles begin."""
    codes, scale, offset = _parts(guess)
    guesses, step = codes * scale + offset, scale.abs()
    least, most = guesses.abs() - 0.5 * step, guesses.abs() + 0.5 * step
    lowest, highest = _upper(least), _upper(most)
    is_open = ~(least > 0) | (highest - lowest > 252)
    middle = (lowest + highest + 1) >> 1
    closed = (_upper(guesses) & 0x8000) | ((middle + ((low - middle + 128) & 255) - 128) & 0x7FFF)
    nibbles = _nibbles(block, starts, is_open)
    top, below = _upper(1.5 * step) >> 8 & 0x7F, nibbles & 7
    high = torch.where(below < 7, top - below, 0)
    return _int16(torch.where(is_open, (nibbles & 8) << 12 | high << 8 | low, closed))


def _nibbles(block: Tensor, starts: Tensor, is_open: Tensor) -> Tensor:
    """[rows, width] int32, of open weights; those of every 64 columns begin at a whole byte."""
    rows, width = is_open.shape
    chunks = torch.nn.functional.pad(is_open, (0, -width % CHUNK)).view(rows, -1, CHUNK).int()
    nbytes = (chunks.sum(2) + 1) // 2
    begins = starts[:, None] + nbytes.cumsum(1) - nbytes
    turns = chunks.cumsum(2) - chunks
    where = (begins[:, :, None] + turns // 2).view(rows, -1)[:, :width]
    return block[where].int() >> (4 * (turns.view(rows, -1)[:, :width] % 2)) & 15


def _parts(guess: Guess) -> tuple[Tensor, Tensor, Tensor]:
    """Codes less what is taken off them, scale and offset of each weight, float32: [rows, width]."""
    own = slice(guess.first, guess.first + guess.rows)
    if guess.layout != LANES:
        packed = guess.packed[own]
        codes = torch.cat([packed & 15, packed >> 4], 1).float() - 8.0
        by_row = [values[:, own].T for values in (guess.scale, guess.offset)]
    else:
        blocks = slice(guess.first // BLOCK, -(-(guess.first + guess.rows) // BLOCK))
        inside = slice(guess.first % BLOCK, guess.first % BLOCK + guess.rows)
        codes = _lanes(guess, blocks)[inside].float()
        by_row = [values[blocks].transpose(1, 2).flatten(0, 1)[inside] for values in (guess.scale, guess.offset)]
    scale, offset = (values.float().repeat_interleave(guess.group, 1) for values in by_row)
    return codes, scale, offset


def _lanes(guess: Guess, blocks: slice) -> Tensor:
    """[16 * blocks, width] uint8: the codes of some blocks."""
    nbytes = BLOCK * guess.width // 2
    first = blocks.start // UNIT * UNIT
    units = guess.packed[first * nbytes : -(-blocks.stop // UNIT) * UNIT * nbytes].split(UNIT * nbytes)
    # Axes: block, the eight of the inputs, lane, place in the half; then both halves of the eight.
    parts = torch.cat([unit.view(guess.width // 8, -1, BLOCK, 4).transpose(0, 1) for unit in units]).transpose(1, 2)
    wanted = parts[blocks.start - first : blocks.stop - first]
    return torch.stack([wanted & 15, wanted >> 4], 3).reshape(-1, guess.width)


def _upper(values: Tensor) -> Tensor:
    """The upper 16 bits of float32, as int32."""
    return values.contiguous().view(torch.int32) >> 16 & 0xFFFF


def _int16(words: Tensor) -> Tensor:
    low = words & 0xFFFF
    return (low - ((low & 0x8000) << 1)).to(torch.int16)


def _numbers(block: Tensor, start: int, count: int) -> Tensor:
    """[count] int64: uint32 from byte `start` on."""
    parts = block[start : start + 4 * count].view(count, 4).long()
    return parts[:, 0] | parts[:, 1] << 8 | parts[:, 2] << 16 | parts[:, 3] << 24
