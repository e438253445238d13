"""An answer's tokens, text and end, without a model: what is shown while it grows, and where it stops."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from specdecodes.answer import PartialAnswer
from specdecodes.sampling import SamplingParams

PIECES = (b"a", b"b", b" stop", b"\xe2\x82", b"\xac", b"<end>")


class Bytes:
    """A tokenizer whose tokens are bytes: token 3 is half of a character, token 4 the rest."""

    def decode(self, tokens: Sequence[int], skip_special_tokens: bool) -> str:
        return b"".join(PIECES[token] for token in tokens if token != 5).decode(errors="replace")


def answer(room: int = 99, **params) -> PartialAnswer:
    return PartialAnswer(Bytes(), SamplingParams(**params), frozenset({5}), room)


@pytest.mark.parametrize(
    ("params", "room", "kept", "reason"),
    [
        ({}, 99, (0, 1), None),
        ({"max_tokens": 3}, 99, (0, 1, 0), "length"),
        ({}, 3, (0, 1, 0), "context"),
        ({}, 99, (0, 5), "stop"),
        ({"ignore_eos": True}, 99, (0, 5, 1), None),
        ({"stop": ("b st",)}, 99, (0, 1, 2), "stop_string"),
    ],
)
def test_an_answer_ends_at_the_first_reason(params, room, kept, reason):
    made = answer(room, **params)
    more = () if reason is None else (0, 0)
    assert made.cut((*kept, *more)) == (len(kept), reason)
    assert tuple(made.tokens) == kept and made.reason == reason


def test_text_before_a_stop_string_is_kept_and_what_may_begin_one_is_not_shown():
    made = answer(stop=(" stop",))
    made.cut((0, 1))
    assert made.new_text() == "", "four letters may be the beginning of the stop string"
    made.cut((0, 1, 0, 1))
    assert made.new_text() == "ab"
    made.cut((2, 0))
    assert made.new_text() + made.new_text(last=True) == "abab"
    assert made.text == "ababab"


def test_half_a_character_is_not_shown():
    made = answer()
    made.cut((0, 3))
    assert made.new_text() == "a"
    made.cut((4,))
    assert made.new_text() == "\u20ac" and made.new_text(last=True) == ""


def test_at_the_end_everything_is_shown():
    made = answer(max_tokens=2, stop=("xyz",))
    made.cut((0, 3))
    assert made.new_text() == "a\ufffd"
