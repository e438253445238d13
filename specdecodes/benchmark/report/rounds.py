"""Figures of one round and of the plan behind it: who was busy when, and which layer lives where."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from specdecodes.benchmark.report.drawing import Drawing, Scale, duration, extent
from specdecodes.benchmark.trace import Timeline

LANE, GUTTER = 34, 52


Bars = Sequence[tuple[str, float, float]]


def timeline(round_: Timeline, width: float, label: str) -> Drawing:
    """A round from left to right: the weights arriving, the target's layers, the draft's levels. What lies between two
    layers of the target is waiting; what follows the last is choosing and committing."""
    lanes: list[tuple[str, Bars, str]] = [
        ("link", round_.link, "layer {} arrives"),
        ("target", round_.target, "layer {} computes"),
        ("draft", round_.draft, "draft level {}"),
    ]
    lanes = [lane for lane in lanes if lane[1]]
    foot = LANE * len(lanes)
    drawing = Drawing(width, foot + 20, f"One round of {label}")
    across = Scale(0.0, round_.seconds * 1e3, GUTTER, width - 2)
    for tick in across.ticks(int((width - GUTTER) // 70)):
        drawing.line(across(tick), 0, across(tick), foot - 4, "grid")
        drawing.text(across(tick), foot + 12, f"{tick:g} ms", "axis", "middle")
    for row, (lane, bars, words) in enumerate(lanes):
        top = LANE * row
        drawing.text(0, top + 18, lane, "name")
        drawing.rect(GUTTER, top + 4, width - 2 - GUTTER, LANE - 12, "lane")
        if lane == "target":
            _bars(drawing, round_.wait, across, top, "wait", "waiting for layer {}")
            _bars(drawing, round_.rest, across, top, "overhead", "{}")
        _bars(drawing, bars, across, top, lane, words, named=True)
    return drawing


def layers(plan: Mapping[str, Any], width: float) -> Drawing:
    """A square a layer, from the first to the last: filled where it stays, open where it streams, with a dot where a
    substitute drafts."""
    resident, substituted = set(plan["resident"]), set(plan["substituted"])
    count = len(plan["resident"]) + len(plan["streamed"])
    step = min(20.0, width / max(min(count, 32), 1))
    columns = max(int(width // step), 1)
    drawing = Drawing(width, step * -(-count // columns) + 2, "Layers: resident, streamed, substituted")
    for layer in range(count):
        x, y, side = step * (layer % columns) + 1, step * (layer // columns) + 1, step - 4
        where = "stays in memory" if layer in resident else "streams"
        drafts = ", drafted by a substitute" if layer in substituted else ""
        drawing.rect(
            x, y, side, side, "resident" if layer in resident else "streamed", f"layer {layer} {where}{drafts}"
        )
        if layer in substituted:
            drawing.dot(x + side / 2, y + side / 2, side / 6, "on-resident" if layer in resident else "substitute")
    return drawing


def _bars(
    drawing: Drawing,
    bars: Bars,
    across: Scale,
    top: float,
    kind: str,
    words: str,
    named: bool = False,
) -> None:
    """Bars of at least a hair's width, each with its label where there is room for it."""
    for label, start, end in bars:
        left, right = across(start * 1e3), across(end * 1e3)
        wide = max(right - left - 0.75, 0.75)
        drawing.rect(left, top + 4, wide, LANE - 12, kind, f"{words.format(label)}: {duration(end - start)}")
        if named and wide > extent(label) + 4:
            drawing.text(left + wide / 2, top + 20, label, f"inside on-{kind}", "middle")
