"""The page of rounds is what the receipts say."""

from __future__ import annotations

from benchmarks import round_terms


def test_the_page_is_what_the_receipts_say() -> None:
    assert round_terms.PAGE.read_text(encoding="utf-8") == round_terms.page(), "python benchmarks/round_terms.py"


def test_every_switch_is_there_with_its_terms() -> None:
    text = round_terms.PAGE.read_text(encoding="utf-8")
    for receipt in ("adaptive-demo", "adaptive-widened-1.2gb", "ahead-widened-3gb", "compressed-normal-0.9gb"):
        assert f"`{receipt}.json`, revision " in text


def test_what_was_expected_is_read_from_a_plans_table() -> None:
    measured = {"decode_tokens_per_second": 4.0, "round_s": 0.5}
    rows = [["predicted round", "a pass", "0.25 s"], ["predicted speed", "1 token", "3 to 9 tokens/s, most likely 5"]]
    found = round_terms.as_planned(rows, measured)
    assert found["predicted_tokens_per_second_error"] == 0.25 and found["predicted_round_s_error"] == -0.5
    assert not round_terms.as_planned([], measured) and not round_terms.as_planned(rows, {})
