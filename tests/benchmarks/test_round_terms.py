"""The page of rounds is what the receipts say."""

from __future__ import annotations

from benchmarks import round_terms


def test_the_page_is_what_the_receipts_say() -> None:
    assert round_terms.PAGE.read_text(encoding="utf-8") == round_terms.page(), "python benchmarks/round_terms.py"


def test_every_switch_is_there_with_its_terms() -> None:
    text = round_terms.PAGE.read_text(encoding="utf-8")
    for receipt in ("adaptive-demo", "adaptive-widened-1.2gb", "ahead-widened-3gb", "compressed-normal-0.9gb"):
        assert f"`{receipt}.json`, revision " in text
