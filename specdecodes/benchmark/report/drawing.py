"""Shapes of an SVG figure, and scales that put numbers on them. Colours are the page's: a shape only says its kind."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from xml.etree import ElementTree

LETTER = 8.0
"""Width of a letter of the figures' type, in pixels, on the safe side: room is reserved before a browser measures."""


class Drawing:
    """A figure of `width` by `height` CSS pixels. `kind` is one or more classes of the page's style sheet; `title` is
    what a pointer that rests on the shape is told."""

    def __init__(self, width: float, height: float, label: str) -> None:
        box = {"viewBox": f"0 0 {_number(width)} {_number(height)}", "role": "img", "aria-label": label}
        self._root = ElementTree.Element("svg", box)
        self.width, self.height = width, height

    def rect(self, x: float, y: float, width: float, height: float, kind: str, title: str = "") -> None:
        if width > 0 and height > 0:
            self._add("rect", kind, title, x=x, y=y, width=width, height=height)

    def line(self, x1: float, y1: float, x2: float, y2: float, kind: str, title: str = "") -> None:
        self._add("line", kind, title, x1=x1, y1=y1, x2=x2, y2=y2)

    def path(self, points: Sequence[tuple[float, float]], kind: str, title: str = "") -> None:
        """A line through `points`."""
        steps = " L".join(f"{_number(x)} {_number(y)}" for x, y in points)
        self._add("path", kind, title).set("d", f"M{steps}")

    def dot(self, x: float, y: float, radius: float, kind: str, title: str = "") -> None:
        self._add("circle", kind, title, cx=x, cy=y, r=radius)

    def text(self, x: float, y: float, words: str, kind: str = "", anchor: str = "start") -> None:
        """`words` with their baseline at `y`; `anchor` is start, middle or end."""
        element = self._add("text", kind, "", x=x, y=y)
        if anchor != "start":
            element.set("text-anchor", anchor)
        element.text = words

    def markup(self, kind: str = "") -> str:
        """The figure as an element of an HTML page."""
        if kind:
            self._root.set("class", kind)
        return ElementTree.tostring(self._root, encoding="unicode")

    def _add(self, tag: str, kind: str, title: str, **places: float) -> ElementTree.Element:
        element = ElementTree.SubElement(self._root, tag, {name: _number(value) for name, value in places.items()})
        if kind:
            element.set("class", kind)
        if title:
            ElementTree.SubElement(element, "title").text = title
        return element


@dataclass(frozen=True)
class Scale:
    """Numbers from `low` to `high` on pixels from `start` to `stop`."""

    low: float
    high: float
    start: float
    stop: float

    def __call__(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low) if self.high > self.low else 0.0
        return self.start + share * (self.stop - self.start)

    def ticks(self, count: int, whole: bool = False) -> list[float]:
        """At most `count` or so round numbers within the scale; only `whole` ones where others mean nothing."""
        step = round_step((self.high - self.low) / max(count, 1))
        if whole:
            step = 5.0 if step == 2.5 else max(step, 1.0)
        first = math.ceil(self.low / step - 1e-9)
        return [step * place for place in range(first, math.floor(self.high / step + 1e-9) + 1)]


def round_step(least: float) -> float:
    """The smallest of 1, 2, 2.5 and 5 times a power of ten that is at least `least`; 1 for nothing."""
    if least <= 0 or not math.isfinite(least):
        return 1.0
    power = 10.0 ** math.floor(math.log10(least))
    return next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= least * (1 - 1e-9))


def shown(value: float) -> str:
    """`value` in three significant digits, without an exponent: 0.0123, 1.23, 1,230."""
    if value == 0 or not math.isfinite(value):
        return "0" if value == 0 else "–"
    decimals = max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:,.{decimals}f}"


def duration(seconds: float) -> str:
    """`0.0123` -> `12.3 ms`; three digits at most."""
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if abs(seconds) >= size or unit == "ms" and abs(seconds) >= 1e-4:
            return f"{shown(seconds / size)} {unit}"
    return f"{shown(seconds * 1e6)} µs" if seconds else "0 ms"


def extent(words: str) -> float:
    """Pixels that `words` take at most."""
    return LETTER * len(words)


def _number(value: float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".")
