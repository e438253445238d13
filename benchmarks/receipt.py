"""A figure's receipt: what was measured, by which command, on which machine and revision."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from specdecodes.benchmark.environment import describe


def write_receipt(path: Path, figures: Mapping[str, Any], *, indent: int | None = 1) -> None:
    """Write `figures` as JSON, beside what made them."""
    made = {**figures, "command": " ".join(["python", *sys.argv]), "environment": describe()}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(made, indent=indent) + "\n", encoding="utf-8")
