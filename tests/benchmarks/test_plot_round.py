"""The figure is drawn from summaries alone, and only from runs that may be compared."""

from __future__ import annotations

import copy

import pytest

from benchmarks.plot_round import caption, draw, token_seconds

SUMMARY = {
    "method": "vanilla",
    "model": "some/model",
    "benchmark": "mt-bench",
    "rounds": 10,
    "tokens_per_round": 2.0,
    "decode_tokens_per_second": 4.0,
    "phase_seconds": {"prefill": 9.0, "draft": 1.0, "target": 2.0, "wait": 1.5, "overhead": 0.5},
    "environment": {"cpu": "a processor", "cores": 2, "revision": "abc"},
}


def test_a_bar_is_as_long_as_a_token_takes():
    assert sum(token_seconds(SUMMARY).values()) == pytest.approx(1 / SUMMARY["decode_tokens_per_second"])


def test_runs_of_two_machines_do_not_share_a_figure():
    other = copy.deepcopy(SUMMARY)
    other["environment"]["cpu"] = "another"
    with pytest.raises(SystemExit, match="differ"):
        caption([SUMMARY, other])
    assert "abc" in caption([SUMMARY, SUMMARY])


def test_the_figure_names_methods_and_speeds(tmp_path):
    pytest.importorskip("matplotlib")
    other = SUMMARY | {"method": "subspec_sd", "decode_tokens_per_second": 8.0}
    for name in ("a.svg", "b.svg"):
        draw([SUMMARY, other], tmp_path / name)
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
    draw([SUMMARY, other], tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 5000
