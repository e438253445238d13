"""A figure over two settings: a cell a combination, the darker the more."""

from __future__ import annotations

from collections.abc import Mapping

from specdecodes.benchmark.report.drawing import Drawing, extent, shown

CELL, SHADES = 40, 9

Cells = Mapping[tuple[str, str], float | None]
"""By (value down, value across); None where nothing could be measured, no key where nothing was tried."""


def heat_map(cells: Cells, down: str, across: str, width: float, span: tuple[float, float] | None = None) -> Drawing:
    """A grid of `cells`; `span` is what the palest and the darkest shade stand for, else the least and the most. The
    largest is framed."""
    rows = list(dict.fromkeys(key[0] for key in cells))
    columns = list(dict.fromkeys(key[1] for key in cells))
    left = min(max((extent(row) for row in rows), default=0.0) + 12, width * 0.3) if down else 0.0
    wide = min((width - left) / max(len(columns), 1), 120.0)
    drawing = Drawing(width, CELL * len(rows) + 42, f"{down} by {across}" if down else across)
    measured = [value for value in cells.values() if value is not None]
    low, high = span or (min(measured, default=0.0), max(measured, default=1.0))
    for column, name in enumerate(columns):
        drawing.text(left + wide * (column + 0.5), 36, name, "axis", "middle")
    drawing.text(left, 16, across, "name")
    if down:
        drawing.text(0, 36, down.rpartition(".")[2], "name")
    for row, name in enumerate(rows):
        top = 42 + CELL * row
        if down:
            drawing.text(left - 12, top + CELL / 2 + 4, name, "axis", "end")
        for column, other in enumerate(columns):
            if (name, other) in cells:
                where = f"{down} {name}, {across} {other}" if down else f"{across} {other}"
                value = cells[name, other]
                kind = "void" if value is None else f"heat-{_shade(value, low, high)}"
                x = left + wide * column
                said = "failed" if value is None else shown(value)
                drawing.rect(x + 1, top + 1, wide - 2, CELL - 2, f"cell {kind}", f"{where}: {said}")
                drawing.text(x + wide / 2, top + CELL / 2 + 4, said, f"on-{kind}", "middle")
                if value is not None and value == max(measured):
                    drawing.rect(x + 1, top + 1, wide - 2, CELL - 2, "best")
    return drawing


def _shade(value: float, low: float, high: float) -> int:
    share = (value - low) / (high - low) if high > low else 1.0
    return min(int(share * SHADES), SHADES - 1)
