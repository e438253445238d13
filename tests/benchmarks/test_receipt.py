"""The table of a receipt's arms: what no arm has is left out, and an arm that failed says so."""

from __future__ import annotations

from benchmarks.receipt import arms_table

COLUMNS = {"tokens/s": ("speed", "{:.2f}"), "levels": ("levels", "{:.1f}"), "link used": ("link_used", "{:.0%}")}


def test_columns_that_no_arm_has_are_left_out() -> None:
    arms = {"one": {"speed": 2.0, "link_used": 0.0}, "two": {"speed": 1.0, "levels": 4.0}, "three": {}}
    assert arms_table(arms, COLUMNS).splitlines() == [
        "| arm | tokens/s | levels |",
        "| --- | ---: | ---: |",
        "| one | 2.00 |  |",
        "| two | 1.00 | 4.0 |",
        "| three | failed |  |",
    ]
