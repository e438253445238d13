"""The receipt of predictions: blocks, what they add up to, and the table."""

from __future__ import annotations

import pytest

from benchmarks.predicted import overall, questions, table, told


def block(number: int, predicted: float, measured: float, tokens: int = 100):
    return {
        "method": "subspec_sd",
        "block": number,
        "predicted": predicted,
        "measured": measured,
        "range": [0.8 * predicted, 1.2 * predicted],
        "error": predicted / measured - 1.0,
        "tokens": tokens,
        "rounds": 10,
        "terms": {
            "round_s": {"predicted": 1.0, "measured": 1.0, "effect": None},
            "pass_s": {"predicted": 1.0, "measured": 1.0, "effect": predicted / measured - 1.0},
        },
    }


def test_no_question_is_asked_twice():
    asked = [prompt[0]["content"] for prompts in questions(4, 8) for prompt in prompts]
    assert len(asked) == len(set(asked)) == 32
    assert questions(2, 8) == questions(4, 8)[:2]


def test_the_first_block_is_told_apart_and_the_others_are_taken_together():
    rows = [block(0, 90.0, 10.0), block(1, 10.0, 20.0, tokens=100), block(2, 30.0, 20.0, tokens=300)]
    found = overall(rows, "subspec_sd")
    assert (found["first_error"], found["blocks"], found["blocks_in_range"]) == (8.0, 2, 0)
    assert found["measured"] == pytest.approx(20.0)
    assert found["predicted"] == pytest.approx(400 / (100 / 10 + 300 / 30))
    assert found["effects"] == {"pass_s": pytest.approx(0.0)}
    assert "+800%" in table({"subspec_sd": found}) and "0 of 2" in table({"subspec_sd": found})
    assert told(rows[1]).endswith("8 to 12, most likely 10; measured 20, -50% (pass_s -50%)")
