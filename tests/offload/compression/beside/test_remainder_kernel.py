"""The Triton kernels that restore remainders: on the GPU, or under triton's interpreter."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from specdecodes import native
from specdecodes.offload.compression.beside import remainder, remainder_reference
from specdecodes.offload.compression.beside.guess import HALVES, Guess
from tests.interpreted import need_triton
from tests.offload.compression.beside.guesses import codes_of, guess_of, normal, raw_of
from tests.offload.compression.beside.test_remainder import patterns

need_triton()
from specdecodes.offload.compression.beside import remainder_kernel  # noqa: E402

pytestmark = pytest.mark.skipif(native.find_compiler() is None, reason="no C++ compiler")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def check(raw: Tensor, guess: Guess) -> None:
    """That the kernels restore what C++ compressed, bit for bit, and not a byte beside it."""
    held = {name: getattr(guess, name).to(DEVICE) for name in ("packed", "scale", "offset")}
    slot = torch.full((raw.numel() + 128,), 0x55, dtype=torch.uint8, device=DEVICE)
    block = remainder.compress(raw, guess).to(DEVICE)
    remainder_kernel.expand(block, replace(guess, **held), slot[64:-64])
    assert slot[64:-64].cpu().equal(raw)
    assert slot[:64].eq(0x55).all() and slot[-64:].eq(0x55).all()


@pytest.mark.parametrize(
    ("rows", "width", "group", "first", "count"),
    [
        (5, 256, 64, 0, 5),
        (9, 1792, 128, 2, 7),  # a part of a tile, some rows of a substitute
        (4, 192, 64, 0, 4),  # the halves meet inside of a chunk
        (6, 288, 96, 3, 2),  # and so do groups
        (3, 96, 16, 1, 1),  # the last chunk is a part of one
    ],
)
def test_every_bit_comes_back(rows: int, width: int, group: int, first: int, count: int) -> None:
    weight = normal(rows, width)
    guess = guess_of(codes_of(weight, group), HALVES, first, count)
    own = weight[first : first + count]
    check(raw_of(own), guess)
    own.view(-1)[::5] = patterns(own.view(-1)[::5].numel())  # more exceptions than one program takes at a time
    check(raw_of(own), guess)


@pytest.mark.filterwarnings("ignore:invalid value")  # the interpreter's, of infinities
def test_beside_any_scales_and_offsets() -> None:
    """Also such as no substitute has: infinite, none, of either sign, so small that fp16 has them as denormals."""
    codes = torch.randint(0, 256, (8, 128), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    numbers = torch.tensor([0.0, 2.0**-24, -(2.0**-20), 0.01, -0.5, 60000.0, float("inf"), float("nan")])
    scale, offset = numbers.repeat(4, 1), torch.stack([numbers, numbers.roll(1), numbers.roll(3), -numbers])
    guess = Guess(codes, scale.half(), offset.half().contiguous(), HALVES, 0, 8, 256)
    near = remainder_reference.guessed(guess).nan_to_num(0.0, 1.0, -1.0).bfloat16()
    check(raw_of(near), guess)
    check(raw_of(-near), guess)
    check(raw_of(patterns(near.numel())), guess)
