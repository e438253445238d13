"""An answer as it is written, and what Ctrl-C leaves of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from specdecodes.cli.report import one_line
from specdecodes.cli.session import answer
from specdecodes.sampling import SamplingParams

ASK = [{"role": "user", "content": "Count"}]


def test_an_answer_is_written_and_returned(parrot: Callable[..., Any], capsys: pytest.CaptureFixture[str]):
    generation = answer(parrot(["one two"]), ASK, SamplingParams())
    assert capsys.readouterr().out == "one two \n"
    assert generation.finish_reason == "stop"
    assert one_line(generation) == "2 tokens, 2.00 tokens/s, 1.0 a round, 3 of 7 prompt tokens kept from before"


def test_ctrl_c_ends_the_answer_with_what_there_is(parrot: Callable[..., Any], capsys: pytest.CaptureFixture[str]):
    generation = answer(parrot(["one two three"], interrupt=2), ASK, SamplingParams())
    assert capsys.readouterr().out == "one two \n"
    assert (generation.text, generation.tokens, len(generation.rounds)) == ("one two ", (0, 1), 2)
    assert generation.finish_reason == "interrupted"
    assert 0 < generation.time_to_first_token_s <= generation.total_seconds
    assert one_line(generation).endswith("interrupted")
