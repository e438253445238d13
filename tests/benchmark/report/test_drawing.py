"""Scales, numbers as text, and shapes as markup."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

from specdecodes.benchmark.report.drawing import Drawing, Scale, duration, round_step, shown


@pytest.mark.parametrize(("least", "step"), [(0.9, 1), (1.0, 1), (1.1, 2), (2.2, 2.5), (3, 5), (0.03, 0.05), (0, 1)])
def test_steps_are_round(least: float, step: float):
    assert round_step(least) == pytest.approx(step)


def test_a_scale_maps_its_ends_and_its_ticks_lie_within():
    scale = Scale(0, 160, 10, 110)
    assert (scale(0), scale(80), scale(160)) == (10, 60, 110)
    assert scale.ticks(4) == [0, 50, 100, 150]
    assert Scale(1, 16, 0, 100).ticks(6, whole=True) == [5, 10, 15]
    assert Scale(3, 3, 5, 9)(3) == 5, "a scale of nothing does not divide by it"


@pytest.mark.parametrize(
    ("value", "text"), [(1234.5, "1,234"), (12.345, "12.3"), (0.01234, "0.0123"), (0, "0"), (float("inf"), "–")]
)
def test_numbers_have_three_digits(value: float, text: str):
    assert shown(value) == text


@pytest.mark.parametrize(("seconds", "text"), [(2.5, "2.50 s"), (0.0123, "12.3 ms"), (2e-5, "20.0 µs"), (0, "0 ms")])
def test_durations_have_a_unit(seconds: float, text: str):
    assert duration(seconds) == text


def test_words_cannot_break_the_markup():
    drawing = Drawing(10, 10, 'a "<label>"')
    drawing.text(0, 0, "<script>&")
    drawing.rect(0, 0, 5, 5, "bar", "5 < 6")
    drawing.rect(0, 0, 0, 5, "bar")
    root = ElementTree.fromstring(drawing.markup("wide"))
    assert root.get("class") == "wide" and root.get("aria-label") == 'a "<label>"'
    assert [child.tag for child in root] == ["text", "rect"], "what has no width is not drawn"
    assert root[0].text == "<script>&" and root[1][0].text == "5 < 6"
