"""The page of rounds is what the receipts say."""

from __future__ import annotations

from benchmarks import round_terms


def test_the_page_is_what_the_receipts_say() -> None:
    assert round_terms.PAGE.read_text(encoding="utf-8") == round_terms.page(), "python benchmarks/round_terms.py"


def test_every_switch_is_there_with_its_terms() -> None:
    text = round_terms.PAGE.read_text(encoding="utf-8")
    for receipt in ("adaptive-demo", "adaptive-widened-1.2gb", "ahead-widened-3gb", "compressed-normal-0.9gb"):
        assert f"`{receipt}.json`, revision " in text


def test_columns_that_no_arm_has_are_left_out() -> None:
    row = {"decode_tokens_per_second": 2.0, "round_s": 0.5, "round_draft_s": 0.25, "link_used": 0.0}
    lines = round_terms.table({"one": row, "two": row | {"round_wait_s": 0.125}}).splitlines()
    assert lines[0] == "| arm | tokens/s | round, s | draft | wait |"
    assert lines[2:] == ["| one | 2.00 | 0.500 | 0.250 |  |", "| two | 2.00 | 0.500 | 0.250 | 0.125 |"]
