"""The questions: benchmarks by name, one file each. A file says how a question is asked and how an answer is judged."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from specdecodes.benchmark.questions import (
    aime,
    alpaca,
    cnn_dm,
    gpqa,
    gsm8k,
    human_eval,
    livecodebench,
    math_500,
    mt_bench,
    spec_bench,
)
from specdecodes.benchmark.questions.samples import Benchmark, Sample, Score
from specdecodes.benchmark.questions.sources import MissingDataError
from specdecodes.errors import ConfigError, suggest

__all__ = ["BENCHMARKS", "Benchmark", "Sample", "Score", "load", "load_all"]

ALL = "all"
BENCHMARKS: dict[str, Callable[[Path | None], Benchmark]] = {
    mt_bench.NAME: mt_bench.load,
    human_eval.NAME: human_eval.load,
    gsm8k.NAME: gsm8k.load,
    alpaca.NAME: alpaca.load,
    cnn_dm.NAME: cnn_dm.load,
    aime.NAME: aime.load,
    gpqa.NAME: gpqa.load,
    math_500.NAME: math_500.load,
    livecodebench.NAME: livecodebench.load,
    spec_bench.NAME: spec_bench.load,
}


def load(name: str, data_dir: Path | None = None) -> Benchmark:
    """The benchmark called `name`. Raises ConfigError for an unknown name (with the nearest) or missing data."""
    if name not in BENCHMARKS:
        raise ConfigError(suggest("benchmark", name, (*BENCHMARKS, ALL)))
    return BENCHMARKS[name](data_dir)


def load_all(names: str, data_dir: Path | None = None) -> list[Benchmark]:
    """The benchmarks of a list like "mt-bench,gsm8k", each once; "all" means every one.

    Raises ConfigError for an unknown name, and one MissingDataError that lists all questions that are missing.
    """
    wanted = [name.strip() for name in names.split(",") if name.strip()]
    if not wanted:
        raise ConfigError(f"no benchmark was named. Known: {', '.join((*BENCHMARKS, ALL))}.")
    for name in wanted:
        if name not in BENCHMARKS and name != ALL:
            load(name)
    named = list(BENCHMARKS) if ALL in wanted else list(dict.fromkeys(wanted))
    loaded, missing = [], []
    for name in named:
        try:
            loaded.append(load(name, data_dir))
        except MissingDataError as error:
            missing.append(str(error))
    if missing:
        raise MissingDataError("questions are missing. " + " ".join(missing))
    return loaded
