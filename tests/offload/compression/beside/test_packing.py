"""A block of several pieces: remainders, and what lies between them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from specdecodes import native
from specdecodes.offload.compression.beside.packing import Beside, Piece
from specdecodes.offload.storage.layout import Packing
from tests.offload.compression.beside.guesses import codes_of, guess_of, normal, raw_of

pytestmark = pytest.mark.skipif(native.find_compiler() is None, reason="no C++ compiler")


@pytest.fixture(scope="module")
def block() -> tuple[Packing, Tensor, Tensor]:
    """Two weights of one substitute, of the second some rows, and a norm before, between and behind."""
    weight = normal(96, 192)
    guess = guess_of(codes_of(weight, 64), "lanes")
    parts = [(normal(1, 333), None), (weight[:40], guess.part(0, 40)), (normal(1, 64), None)]
    parts += [(weight[40:71], guess.part(40, 31)), (normal(1, 7), None)]
    raws, pieces, at = [], [], 0
    for values, own in parts:
        raws.append(raw_of(values))
        pieces.append(Piece(at, raws[-1].numel(), own))
        at += raws[-1].numel()
    packing, raw = Beside(tuple(pieces)), torch.cat(raws)
    return packing, raw, packing.compress(raw)


def test_every_piece_comes_back(block: tuple[Packing, Tensor, Tensor]) -> None:
    packing, raw, packed = block
    assert packing.sound(packed, raw.numel())
    out = torch.full_like(raw, 0x55)
    assert packing.expand(packed, out) and out.equal(raw)
    landing, out = torch.cat([packed, torch.full((100,), 0x55, dtype=torch.uint8)]), torch.full_like(raw, 0x55)
    packing.expand_on(landing, out, packing.cuts(packed))
    assert out.equal(raw)


def test_pieces_begin_at_whole_lines(block: tuple[Packing, Tensor, Tensor]) -> None:
    packing, _, packed = block
    cuts = packing.cuts(packed)
    assert len(cuts) == 6 and not any(cut % 64 for cut in cuts) and cuts[-1] == packed.numel()


def test_what_is_no_such_block_is_refused(block: tuple[Packing, Tensor, Tensor]) -> None:
    packing, raw, packed = block
    out = torch.empty_like(raw)
    for cut in (0, 8, 64, packed.numel() - 64, packed.numel() - 1):
        assert not packing.sound(packed[:cut], raw.numel()) and not packing.expand(packed[:cut], out)
    assert not packing.sound(packed, raw.numel() - 2) and not packing.expand(packed, out[2:])
    for place in (*range(16), *(cut + 12 for cut in packing.cuts(packed)[:-1]), packed.numel() // 2):
        damaged = packed.clone()
        damaged[place] ^= 0x41
        assert not packing.sound(damaged, raw.numel()) and not packing.expand(damaged, out), place


def test_a_piece_has_the_bytes_of_its_guess() -> None:
    guess = guess_of(codes_of(normal(16, 64), 64), "lanes")
    with pytest.raises(ValueError, match="rows of the guess"):
        Piece(0, 64, guess)
