"""Sizes in bytes, as people write and read them."""

from __future__ import annotations

import re

from specdecodes.errors import ConfigError

_UNITS = {"": 1, "b": 1}
_UNITS |= {f"{prefix}b": 1000**power for power, prefix in enumerate("kmgt", start=1)}
_UNITS |= {f"{prefix}ib": 1024**power for power, prefix in enumerate("kmgt", start=1)}


def parse_bytes(size: str | int) -> int:
    """Bytes in `8GiB`, `1.5GB`, `500 MB` or a plain number. Raises ConfigError on anything else."""
    if isinstance(size, int):
        return size
    match = re.fullmatch(r"\s*([0-9]*\.?[0-9]+)\s*([A-Za-z]*)\s*", size)
    if match is None or match[2].lower() not in _UNITS:
        raise ConfigError(f"'{size}' is not a size in bytes; write it like 8GiB, 1.5GB or 500MB.")
    return int(float(match[1]) * _UNITS[match[2].lower()])


def format_bytes(count: float) -> str:
    """`1536` -> `1.5 KiB`; binary units, three significant digits."""
    size = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(size) < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.3g} {unit}" if size < 100 else f"{size:.0f} {unit}"
        size /= 1024
    return f"{size:.3g} TiB"
