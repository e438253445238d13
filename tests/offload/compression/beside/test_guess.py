"""What a guess is made of, its parts, and what names it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from specdecodes.offload.compression.beside.guess import HALVES, LANES, digest
from specdecodes.offload.compression.beside.remainder_reference import guessed
from tests.offload.compression.beside.guesses import LAYOUTS, codes_of, guess_of, normal


@pytest.mark.parametrize("layout", LAYOUTS)
def test_it_says_the_substitutes_weights(layout: str) -> None:
    codes = codes_of(normal(37, 96), 32)
    assert torch.allclose(guessed(guess_of(codes, layout)), codes.dequantize(), atol=1e-4)
    part = guess_of(codes, layout, 5, 30).part(14, 9)
    assert guessed(part).equal(guessed(guess_of(codes, layout))[19:28]) and part.nbytes == 9 * 96 * 2


def test_parts_and_buffers_that_are_none_are_refused() -> None:
    guess = guess_of(codes_of(normal(32, 64), 32), HALVES)
    with pytest.raises(ValueError, match="are not among 32"):
        guess.part(20, 13)
    for wrong in (
        {"layout": LANES},
        {"scale": guess.scale.float()},
        {"packed": guess.packed[:16]},
        {"rows": 33},
        {"width": 60},
    ):
        with pytest.raises(ValueError):
            replace(guess, **wrong)


def test_a_digest_tells_substitutes_and_their_rows_apart() -> None:
    weight = normal(64, 64)
    guess = guess_of(codes_of(weight, 32), LANES)
    seen = {digest({"gate": guess.part(0, 32), "up": guess.part(32, 32)})}
    for other in (
        {"gate": guess.part(0, 32), "up": guess.part(16, 32)},
        {"gate": guess.part(0, 32), "down": guess.part(32, 32)},
        {"gate": guess.part(0, 32)},
        {"gate": guess_of(codes_of(weight * 1.1, 32), LANES).part(0, 32), "up": guess.part(32, 32)},
        {"gate": guess_of(codes_of(weight, 32), HALVES).part(0, 32), "up": guess.part(32, 32)},
    ):
        seen.add(digest(other))
    assert len(seen) == 6 and len(seen.pop()) == 32
    copy = guess_of(codes_of(weight, 32), LANES)
    assert digest({"up": guess}) == digest({"up": copy})
