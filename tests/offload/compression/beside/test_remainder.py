"""Every bit comes back beside a guess, good or bad, whatever way; damage is seen and never leads outside the block."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from specdecodes import native
from specdecodes.errors import CompileError
from specdecodes.offload.compression.beside import remainder
from specdecodes.offload.compression.beside.guess import LANES, Guess
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
        assert remainder.expand(block, guess, out, way=way, threads=2) and out.equal(raw), way
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


@pytest.mark.parametrize("layout", LAYOUTS)
def test_threads_share_a_block(layout: str) -> None:
    """Which meet inside of a line of the check, and of the memory that they write to."""
    weight = normal(16 * 24, 1056)
    weight.view(-1)[::999] = patterns(weight.view(-1)[::999].numel())
    check(raw_of(weight[5:]), guess_of(codes_of(weight, 48), layout, 5))


def test_addresses_need_not_be_aligned() -> None:
    weight = normal(64, 640)
    guess, raw = guess_of(codes_of(weight, 64), "lanes"), raw_of(weight)
    block = remainder.compress(raw, guess)
    shifted = torch.empty(block.numel() + 1, dtype=torch.uint8)
    shifted[1:] = block
    for way in ways():
        for start in (2, 24, 62):
            room = torch.full((raw.numel() + 128,), 0x55, dtype=torch.uint8)
            out = room[start : start + raw.numel()]
            assert remainder.expand(shifted[1:], guess, out, way=way, threads=2) and out.equal(raw)
            assert room[:start].eq(0x55).all() and room[start + raw.numel() :].eq(0x55).all()


def test_normal_weights_take_little_more_than_a_byte() -> None:
    weight = normal(256, 1024)
    for group, most in ((64, 0.557), (128, 0.564)):
        block = remainder.compress(raw_of(weight), guess_of(codes_of(weight, group), "lanes"))
        assert block.numel() / raw_of(weight).numel() < most


@pytest.mark.parametrize(("layout", "group"), [("lanes", 8), ("lanes", 64), ("halves", 32)])
def test_any_changed_byte_is_seen(layout: str, group: int) -> None:
    weight = normal(9, 192)
    weight[::3, ::17] = 3e38
    guess, raw = guess_of(codes_of(weight, group), layout), raw_of(weight)
    block, out = remainder.compress(raw, guess).clone(), torch.empty_like(raw)
    for place in range(block.numel()):
        block[place] ^= 0x41
        assert not remainder.sound(block, raw.numel()), place
        for way in (ways()[0], ways()[-1]):
            assert not remainder.expand(block, guess, out, way=way), (way, place)
        block[place] ^= 0x41


def test_another_guess_is_seen() -> None:
    weight, other = normal(32, 256), normal(32, 256).flip(0)
    block = remainder.compress(raw_of(weight), guess_of(codes_of(weight, 64), LANES))
    out = torch.empty_like(raw_of(weight))
    for way in ways():
        assert not remainder.expand(block, guess_of(codes_of(other, 64), LANES), out, way=way)
        assert not remainder.expand(
            block, guess_of(codes_of(weight, 64), LANES, 0, 16), out[: out.numel() // 2], way=way
        )


def test_without_a_compiler_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(source: object) -> None:
        raise CompileError("no C++ compiler was found: install g++.")

    monkeypatch.setattr(remainder, "load", refuse)
    remainder._library.cache_clear()
    assert "install g++" in remainder.missing()
    monkeypatch.undo()
    assert not remainder.missing()
