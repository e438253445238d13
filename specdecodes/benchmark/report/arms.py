"""Result folders as a report compares them: labelled, and pooled over the benchmarks that all of them hold."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from specdecodes.benchmark.profile import read_timeline
from specdecodes.benchmark.report.measured import Measured
from specdecodes.benchmark.results.compare import Identity, identity, warnings
from specdecodes.benchmark.results.intervals import Interval, ratio_interval, speedup_interval
from specdecodes.benchmark.results.journal import flat
from specdecodes.benchmark.results.reading import Results, find_results
from specdecodes.benchmark.results.records import ResultsError, SampleRecord
from specdecodes.benchmark.trace import Timeline

Samples = Mapping[str, Sequence[str]]
"""Ids of samples by benchmark."""


@dataclass(frozen=True)
class Arm:
    """One result folder: `label` is its own among the arms of a page."""

    label: str
    colour: int
    folder: Path
    results: Mapping[str, Results]  # by benchmark
    timeline: Timeline | None = None

    @property
    def any(self) -> Results:
        """One of its benchmarks: plan, settings and environment are the same for all that one command ran."""
        return next(iter(self.results.values()))

    def records(self, chosen: Samples) -> list[SampleRecord]:
        return [self.results[name].done[key] for name, keys in chosen.items() for key in keys]

    def measured(self, chosen: Samples) -> Measured:
        """Its `chosen` samples together."""
        records = self.records(chosen)
        interval = ratio_interval(*_totals(records))
        return Measured(self.label, tuple(record.answers for record in records), interval, self.colour)

    def settings(self) -> dict[str, Any]:
        """The resolved pipeline, as dotted keys."""
        return flat(self.any.settings["pipeline"])


def read_arms(folders: Sequence[Path]) -> list[Arm]:
    """An arm a folder, in that order. Raises ResultsError for a folder without a finished sample."""
    found = [(folder, find_results(folder)) for folder in folders]
    for folder, results in found:
        if not any(result.done for result in results.values()):
            raise ResultsError(f"{folder} holds no finished sample; run the benchmark again to go on with it.")
    firsts = [(folder, next(iter(results.values()))) for folder, results in found]
    colours = _colours([result.method for _, result in firsts])
    return [
        Arm(label, colour, folder, {name: one for name, one in results.items() if one.done}, read_timeline(folder))
        for label, colour, (folder, results) in zip(_labels(firsts), colours, found, strict=True)
    ]


def shared(arms: Sequence[Arm]) -> dict[str, list[str]]:
    """By benchmark, the samples that every arm answered: figures are compared on these alone. Raises ResultsError when
    there is none."""
    first = arms[0].results
    chosen = {
        name: [key for key, record in result.done.items() if all(_asked(arm, name, key, record) for arm in arms)]
        for name, result in first.items()
    }
    chosen = {name: keys for name, keys in chosen.items() if keys}
    if not chosen:
        held = "; ".join(f"{arm.folder}: {', '.join(arm.results)}" for arm in arms)
        raise ResultsError(f"there is no sample that all of these answered ({held}); report them one by one.")
    return chosen


def ratio(arm: Arm, base: Arm, chosen: Samples) -> Interval | None:
    """The 95% interval of the speed of `arm` over that of `base`; None for fewer than two samples."""
    return speedup_interval(*_totals(arm.records(chosen)), *_totals(base.records(chosen)))


def identities(arms: Sequence[Arm], chosen: Samples) -> list[Identity]:
    """How far the tokens of every arm equal those of the first."""
    base = arms[0].records(chosen)
    return [identity(arm.label, base, arm.records(chosen)) for arm in arms[1:]]


def cautions(arms: Sequence[Arm], chosen: Samples) -> list[str]:
    """What makes the arms less comparable than they look, and what a single one leaves out."""
    labels = [arm.label for arm in arms]
    found: list[str] = []
    for name, keys in chosen.items():
        found += warnings([arm.results[name] for arm in arms], labels, len(keys))
    alone = sorted({name for arm in arms for name in arm.results} - chosen.keys())
    if alone:
        found.append(f"not answered by all, left out: {', '.join(alone)}")
    return [f"{text[0].upper()}{text[1:]}." for text in dict.fromkeys(found)]


def differing(arms: Sequence[Arm]) -> list[str]:
    """The settings that are not the same in every arm."""
    settings = [arm.settings() for arm in arms]
    keys = sorted({key for flat_ in settings for key in flat_})
    return [key for key in keys if len({repr(flat_.get(key)) for flat_ in settings}) > 1]


def _asked(arm: Arm, benchmark: str, sample: str, record: SampleRecord) -> bool:
    """Whether `arm` answered the sample, in the same words."""
    result = arm.results.get(benchmark)
    return result is not None and sample in result.done and result.done[sample].turns == record.turns


def _totals(records: Sequence[SampleRecord]) -> tuple[list[float], list[float]]:
    """New tokens and seconds of each sample."""
    return [float(sum(map(len, record.tokens))) for record in records], [record.seconds for record in records]


def _colours(methods: Sequence[str]) -> list[int]:
    """0 for the first plain run, the next free number for every other arm."""
    plain = methods.index("vanilla") if "vanilla" in methods else None
    free = iter(range(1, len(methods) + 1))
    return [0 if place == plain else next(free) for place in range(len(methods))]


def _labels(found: Sequence[tuple[Path, Results]]) -> list[str]:
    """The method; with the model where models differ; with the folder where that is still not enough."""
    models = {Path(str(results.facts.get("model", ""))).name for _, results in found}
    names = []
    for _, results in found:
        model = Path(str(results.facts.get("model", ""))).name
        names.append(f"{results.method}, {model}" if len(models) > 1 else results.method)
    twice = {name for name, count in Counter(names).items() if count > 1}
    return [
        f"{name} ({folder.name})" if name in twice else name for name, (folder, _) in zip(names, found, strict=True)
    ]
