"""The figure is drawn from a receipt alone."""

from __future__ import annotations

import pytest

from benchmarks.plot_round import caption, draw, token_seconds


def arm(seconds: float) -> dict:
    phases = {"prefill": 9.0, "draft": seconds, "target": 2 * seconds, "wait": 1.5, "overhead": 0.5}
    return {"rounds": 10, "tokens_per_round": 2.0, "phase_seconds": phases}


RECEIPT = {
    "rounds": [{"prompt": "a", "vanilla": arm(1.0)}, {"prompt": "b", "vanilla": arm(3.0)}],
    "medians": {"vanilla": {}},
    "environment": {"cpu": "a processor", "cores": 2, "revision": "abc"},
}


def test_a_bar_is_all_decoding_seconds_over_all_tokens():
    seconds = token_seconds(RECEIPT, "vanilla")
    assert seconds["draft"] == pytest.approx((1.0 + 3.0) / 40)
    assert sum(seconds.values()) == pytest.approx((3 * 4.0 + 4.0) / 40)


def test_the_caption_names_machine_and_revision():
    assert caption(RECEIPT) == "2 prompts, a processor, 2 cores, revision abc"


def test_equal_receipts_are_equal_figures(tmp_path):
    pytest.importorskip("matplotlib")
    for name in ("a.svg", "b.svg"):
        draw(RECEIPT, "a model", tmp_path / name)
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
    draw(RECEIPT, "a model", tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 5000
