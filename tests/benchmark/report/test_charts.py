"""Figures are as long as their numbers."""

from __future__ import annotations

from dataclasses import replace
from xml.etree import ElementTree

import pytest

from specdecodes.benchmark.report import charts
from specdecodes.benchmark.report.heat import heat_map
from specdecodes.benchmark.report.measured import PHASES, Measured
from specdecodes.benchmark.report.rounds import layers, timeline
from specdecodes.benchmark.trace import Timeline


@pytest.fixture
def arms(answered) -> list[Measured]:
    slow = Measured("vanilla", ((answered(seconds=8.0),),) * 2)
    fast = Measured("subspec_sd", ((answered(seconds=4.0),),) * 2, (0.75, 1.25), 1)
    return [slow, fast]


def shapes(drawing, tag: str, kind: str) -> list[ElementTree.Element]:
    root = ElementTree.fromstring(drawing.markup())
    return [shape for shape in root.iter(tag) if kind in shape.get("class", "").split()]


def texts(drawing) -> list[str]:
    return [element.text or "" for element in ElementTree.fromstring(drawing.markup()).iter("text")]


def test_twice_the_speed_is_twice_the_bar(arms):
    drawing = charts.speed(arms, 400)
    slow, fast = (float(bar.get("width", 0)) for bar in shapes(drawing, "rect", "bar"))
    assert fast == pytest.approx(2 * slow, abs=0.05)
    assert "0.500 tokens/s" in texts(drawing) and "1.00 tokens/s · 2.00×" in texts(drawing)
    low, high = (float(shapes(drawing, "line", "whisker")[0].get(end, 0)) for end in ("x1", "x2"))
    assert low < fast < high == pytest.approx(398)


def test_a_tokens_bar_is_its_phases_end_to_end(arms):
    drawing = charts.token_time(arms, 400)
    bars = [bar for bar in shapes(drawing, "rect", "bar") if bar.get("y") == "20"]
    assert sum(float(bar.get("width", 0)) for bar in bars) == pytest.approx(398, abs=0.1)
    assert {name for bar in bars for name in bar.get("class", "").split()} <= {"bar", *PHASES}
    assert len(shapes(drawing, "line", "bound")) == 2


def test_every_depth_has_its_dot_and_every_curve_its_name(arms):
    drawing = charts.acceptance(arms, 400)
    assert len(shapes(drawing, "circle", "dot")) == 4
    assert {"vanilla", "subspec_sd", "100%"} <= set(texts(drawing))


def test_drafts_that_were_never_verified_have_no_curve(arms, answered):
    answer = answered()
    rounds = tuple(replace(r, proposed=0, accepted=0, proposed_by_depth=(), levels=1) for r in answer.rounds)
    unverified = Measured("classic_sd", ((replace(answer, rounds=rounds),),))
    assert unverified.drafts
    drawing = charts.acceptance([unverified, arms[1]], 400)
    assert len(shapes(drawing, "path", "curve")) == 1 and "classic_sd" not in texts(drawing)
    assert not shapes(charts.acceptance([unverified], 400), "path", "curve")


def test_names_of_curves_that_end_together_do_not_touch(arms):
    drawing = charts.acceptance(arms, 400)
    heights = [float(text.get("y", 0)) for text in shapes(drawing, "text", "name")]
    assert abs(heights[0] - heights[1]) >= 14


def test_histograms_name_their_mean(arms):
    assert texts(charts.accepted_tokens(arms, 400)).count("τ = 2.00") == 2


def test_a_timeline_shows_who_was_busy_when():
    round_ = Timeline(1.0, (("3", 0.0, 0.5),), (("0", 0.5, 1.0),), (), (("1", 0.0, 0.5),), ())
    drawing = timeline(round_, 452, "subspec_sd")
    (arriving,), (computing,) = shapes(drawing, "rect", "link"), shapes(drawing, "rect", "target")
    assert float(computing.get("x", 0)) == pytest.approx(52 + 199)
    assert float(arriving.get("width", 0)) == pytest.approx(199, abs=1)
    assert arriving[0].text == "layer 3 arrives: 500 ms"
    plain = Timeline(1.0, (), (("0", 0.5, 1.0),), (), (), ())
    assert "draft" not in texts(timeline(plain, 452, "vanilla")), "no lane for what there is not"


def test_a_square_a_layer():
    drawing = layers({"resident": [1], "streamed": [0, 2], "substituted": [0, 2]}, 300)
    assert len(shapes(drawing, "rect", "resident")) == 1 and len(shapes(drawing, "rect", "streamed")) == 2
    assert len(shapes(drawing, "circle", "substitute")) == 2


def test_a_heat_map_frames_the_largest_and_says_what_failed():
    cells = {("8", "4"): 10.0, ("8", "6"): 20.0, ("16", "4"): None}
    drawing = heat_map(cells, "tree.depth", "tree.width", 400)
    assert len(shapes(drawing, "rect", "best")) == 1
    assert shapes(drawing, "rect", "heat-0") and shapes(drawing, "rect", "heat-8") and shapes(drawing, "rect", "void")
    assert {"10.0", "20.0", "failed", "tree.width", "depth"} <= set(texts(drawing))
