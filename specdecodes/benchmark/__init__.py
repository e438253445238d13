"""Benchmarks: questions asked the same way of every method, and what was measured. One file per benchmark."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from specdecodes.benchmark import mt_bench
from specdecodes.benchmark.samples import Benchmark, Sample
from specdecodes.errors import ConfigError, suggest

__all__ = ["BENCHMARKS", "Benchmark", "Sample", "load"]

BENCHMARKS: dict[str, Callable[[Path | None], Benchmark]] = {
    mt_bench.NAME: mt_bench.load,
}


def load(name: str, data_dir: Path | None = None) -> Benchmark:
    """The benchmark called `name`. Raises ConfigError for an unknown name (with the nearest) or missing data."""
    if name not in BENCHMARKS:
        raise ConfigError(suggest("benchmark", name, BENCHMARKS))
    return BENCHMARKS[name](data_dir)
