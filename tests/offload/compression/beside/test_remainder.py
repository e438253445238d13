"""Every bit comes back beside a guess, good or bad, whatever way; damage is seen and never leads outside the block."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from specdecodes import native
from specdecodes.offload.compression.beside import remainder
from specdecodes.offload.compression.beside.guess import Guess
from tests.offload.compression.beside.guesses import LAYOUTS, codes_of, guess_of, normal, raw_of

pytestmark = pytest.mark.skipif(native.find_compiler() is None, reason="no C++ compiler")


def ways() -> tuple[str, ...]:
    return remainder.WAYS[: remainder.WAYS.index(remainder.way()) + 1]


def check(raw: Tensor, guess: Guess) -> Tensor:
    """That every way restores `raw`; the block."""
    block = remainder.compress(raw, guess).clone()
    assert remainder.sound(block, raw.numel()) and block.numel() % 64 == 0
    for way in ways():
        out = torch.full_like(raw, 0x55)
        assert remainder.expand(block, guess, out, way=way) and out.equal(raw), way
    out = torch.full_like(raw, 0x55)
    remainder.expand_on(block, guess, out)
    assert out.equal(raw)
    return block


def patterns(count: int) -> Tensor:
    """[count] bf16 of all bit patterns: NaNs, infinities and denormals too."""
    generator = torch.Generator().manual_seed(count)
    return torch.randint(-32768, 32768, (count,), generator=generator, dtype=torch.int16).view(torch.bfloat16)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    ("rows", "width", "group", "first", "count"),
    [
        (16, 64, 64, 0, 16),
        (96, 1024, 64, 0, 96),
        (70, 2176, 128, 0, 70),  # a part of a unit, and of a block; more than a segment
        (130, 192, 64, 37, 61),  # one weight of several, from the middle of a block
        (48, 256, 32, 0, 48),
        (33, 96, 16, 1, 32),  # the last chunk is a part of one
        (20, 288, 96, 3, 1),
    ],
)
def test_every_bit_comes_back(layout: str, rows: int, width: int, group: int, first: int, count: int) -> None:
    weight = normal(rows, width)
    guess = guess_of(codes_of(weight, group), layout, first, count)
    own = weight[first : first + count]
    check(raw_of(own), guess)
    noise = own.clone()
    noise.view(-1)[::5] = patterns(noise.view(-1)[::5].numel())
    check(raw_of(noise), guess)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_weights_of_every_sort_come_back(layout: str) -> None:
    weight = torch.zeros(16 * 7, 128, dtype=torch.bfloat16)
    weight[16:32] = 0.5  # of one value: scale 0
    weight[32:48] = normal(16, 128, 1e-30)  # such as fp16 flushes to zero
    weight[48:64] = normal(16, 128, 6e-7)  # steps that are fp16's denormals
    weight[64:80] = normal(16, 128, 1e8)  # scales that fp16 has as infinite
    weight[80:96] = normal(16, 128) + 1  # no weight near zero
    weight[96:] = normal(16, 128)
    weight[96:] *= (torch.rand(16, 128, generator=torch.Generator().manual_seed(0)) < 0.01) * 50.0  # few large ones
    guess = guess_of(codes_of(weight, 64), layout)
    check(raw_of(weight), guess)
    check(raw_of(-weight), guess)
    check(raw_of(patterns(weight.numel())), guess)
