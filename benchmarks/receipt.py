"""A figure's receipt: what was measured, by which command, on which machine and revision; and its arms as a table."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from specdecodes.benchmark.environment import describe
from specdecodes.tables import markdown


def write_receipt(path: Path, figures: Mapping[str, Any], *, indent: int | None = 1) -> None:
    """Write `figures` as JSON, beside what made them."""
    made = {**figures, "command": " ".join(["python", *sys.argv]), "environment": describe()}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(made, indent=indent) + "\n", encoding="utf-8")


def arms_table(arms: Mapping[str, Mapping[str, float]], columns: Mapping[str, tuple[str, str]]) -> str:
    """Medians in Markdown, a row an arm. `columns`: by title the figure, and how it is written; one that no arm has is
    left out. An arm without figures failed."""
    shown = {title: way for title, way in columns.items() if any(row.get(way[0]) for row in arms.values())}
    rows = []
    for name, row in arms.items():
        cells = [form.format(row[key]) if row.get(key) is not None else "" for key, form in shown.values()]
        rows.append([name, *(cells if row else ["failed", *cells[1:]])])
    return markdown(["arm", *shown], rows)
