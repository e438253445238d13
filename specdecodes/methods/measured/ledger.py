"""Figures measured on this machine, kept between runs: how long steps take, and how well a draft did."""

from __future__ import annotations

import hashlib
import math
import os
import statistics
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch

from specdecodes.folders import cache_folder, remember, remembered

Figures = dict[str, float]

REMEMBERED = 20
"""Figures kept under a name."""

LATEST = 5
"""Of those, the ones whose median counts: what steps take follows the machine, and the program."""

NOW = 1.25
"""How far the very last one may be from that median, to be believed to tell how the machine is by now."""


def key_of(*parts: object) -> str:
    """A name for figures that depend on `parts`, and on torch, its threads and the processor."""
    machine = (torch.__version__, torch.get_num_threads(), torch.backends.cpu.get_cpu_capability(), os.cpu_count())
    accelerator = torch.cuda.get_device_name() if torch.cuda.is_available() else ""
    return hashlib.sha256(repr((*parts, machine, accelerator)).encode()).hexdigest()[:24]


def recall(key: str, names: Iterable[str], *, max_age: float = float("inf")) -> Figures | None:
    """What the last figures kept under `key` say, of those that have all the `names` and are at most `max_age` seconds
    old: half of it their medians, since one run beside a busy neighbour is to be outvoted, and half the very last ones,
    since a machine that is slow now stays so for a while."""
    wanted, now = set(names), time.time()
    believed = [kept for kept in every(key, wanted) if now - kept.get("at", 0.0) <= max_age][-LATEST:]
    return {name: _by_now([kept[name] for kept in believed]) for name in wanted} if believed else None


def _by_now(figures: Sequence[float]) -> float:
    middle = statistics.median(figures)
    change = figures[-1] / middle if middle else 1.0
    return middle * math.sqrt(min(max(change, 1.0 / NOW), NOW))


def every(key: str, names: Iterable[str]) -> list[Figures]:
    """All figures kept under `key` that have all the `names`, oldest first."""
    wanted = set(names)
    return [kept for kept in _read().get(key, []) if wanted <= kept.keys()]


def keep(key: str, figures: Figures) -> None:
    """Keep `figures` under `key`. Where the folder cannot be written they are measured anew next time."""
    entries = _read()
    entries[key] = [*entries.get(key, []), figures | {"at": time.time()}][-REMEMBERED:]
    remember(_path(), entries)


def _path() -> Path:
    return cache_folder() / "measured.json"


def _read() -> dict[str, list[Figures]]:
    """All entries, oldest first under each key."""
    return {key: kept for key, kept in remembered(_path()).items() if isinstance(kept, list)}
