"""Runs side by side on the samples that all of them answered: speed, whether they said the same, what else differs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from specdecodes.benchmark.results.intervals import Interval, speedup_interval
from specdecodes.benchmark.results.journal import flat
from specdecodes.benchmark.results.reading import Results
from specdecodes.benchmark.results.records import ResultsError, SampleRecord
from specdecodes.benchmark.results.summary import figures, scores
from specdecodes.units import parse_bytes

WORDS_SHOWN = 60  # characters of the texts where they part

METHOD_SETTINGS = ("method", "draft.", "middle.", "tree.", "warmup", "compile")
"""What methods are compared for; every other setting should be the same."""


@dataclass(frozen=True)
class Standing:
    """One run's figures over the shared samples, by the names of the results format."""

    label: str
    figures: Mapping[str, Any]
    ratio: float  # of tokens/s to that of the first run
    ratio_interval: Interval | None  # 95%, paired bootstrap over samples


@dataclass(frozen=True)
class Parting:
    """Where a run first emitted another token than the first run; None stands for an answer that had ended there."""

    sample: str
    turn: int
    index: int  # of the new token in its answer
    base_token: int | None
    token: int | None
    base_text: str  # from a little before the place where the texts part
    text: str


@dataclass(frozen=True)
class Identity:
    """How far a run's tokens equal the first run's. Samples in order of asking; without a parting all are equal."""

    label: str
    samples: int
    tokens: int  # compared and equal
    partings: tuple[Parting, ...]  # at most one a sample


@dataclass(frozen=True)
class SideBySide:
    """Runs of one benchmark, or of several taken together."""

    benchmark: str
    samples: int
    standings: tuple[Standing, ...]
    identities: tuple[Identity, ...]  # of every run but the first
    warnings: tuple[str, ...]
    devices: tuple[str, ...]  # what each run's memory is of: cuda:0, cpu
    exact: bool = True  # whether all runs computed in exact mode


def compare(runs: Sequence[Results], labels: Sequence[str]) -> SideBySide:
    """`runs` of one benchmark against the first of them, on the samples that all answered.

    Raises ResultsError when there is no such sample.
    """
    rows = _shared(runs)
    if not rows[0]:
        raise ResultsError(f"{runs[0].benchmark}: there is no sample that all runs answered.")
    return _side_by_side(runs[0].benchmark, runs, rows, labels, tuple(warnings(runs, labels, len(rows[0]))))


def pooled(groups: Sequence[Sequence[Results]], labels: Sequence[str]) -> SideBySide:
    """Several benchmarks as one: `groups` holds, for each, one `Results` a run."""
    rows: list[list[SampleRecord]] = [[] for _ in labels]
    for group in groups:
        for place, records in enumerate(_shared(group)):
            rows[place] += [replace(record, id=f"{group[0].benchmark}/{record.id}") for record in records]
    return _side_by_side("all benchmarks", groups[0], rows, labels, ())


def standings(rows: Sequence[Sequence[SampleRecord]], labels: Sequence[str]) -> tuple[Standing, ...]:
    """Figures and ratios of runs; row i holds run i's records of the same samples in the same order."""
    base_tokens, base_seconds = _totals(rows[0])
    stood: list[Standing] = []
    for label, row in zip(labels, rows, strict=True):
        tokens, seconds = _totals(row)
        measured = figures(row) | scores(row)
        measured["peak_device_bytes"] = max(record.peak_device_bytes for record in row)
        base_rate, rate = sum(base_tokens) / sum(base_seconds), sum(tokens) / sum(seconds)
        interval = speedup_interval(tokens, seconds, base_tokens, base_seconds) if stood else None
        stood.append(Standing(label, measured, rate / base_rate if base_rate else 0.0, interval))
    return tuple(stood)


def identity(label: str, base: Sequence[SampleRecord], other: Sequence[SampleRecord]) -> Identity:
    """Token by token, sample by sample."""
    pairs = list(zip(base, other, strict=True))
    partings = tuple(parting for ours, theirs in pairs if (parting := part(ours, theirs)) is not None)
    parted = {parting.sample: parting for parting in partings}
    equal = 0
    for ours, _ in pairs:
        place = parted.get(ours.id)
        turns = ours.tokens if place is None else ours.tokens[: place.turn - 1]
        equal += sum(map(len, turns)) + (place.index if place is not None else 0)
    return Identity(label, len(pairs), equal, partings)


def part(base: SampleRecord, other: SampleRecord) -> Parting | None:
    """The first token at which two records of one sample differ; later turns follow other answers and say nothing."""
    for turn, (ours, theirs) in enumerate(zip(base.answers, other.answers, strict=False), 1):
        index = _first(ours.tokens, theirs.tokens)
        if index is not None:
            start = max(0, (_first(ours.text, theirs.text) or 0) - WORDS_SHOWN // 3)
            texts = [text[start : start + WORDS_SHOWN] for text in (ours.text, theirs.text)]
            return Parting(base.id, turn, index, _at(ours.tokens, index), _at(theirs.tokens, index), *texts)
    return None


def warnings(runs: Sequence[Results], labels: Sequence[str], shared: int) -> Iterator[str]:
    """What makes the runs less comparable than they look, one sentence each."""
    counts = [len(run.done) for run in runs]
    if any(count != shared for count in counts):
        asked = _each(labels, [f"{count}" for count in counts])
        yield f"runs answered different samples ({asked}); only the {shared} that all answered are compared"
    failed = [sum(not record.done for record in run.records) for run in runs]
    if any(failed):
        yield f"failed samples are left out ({_each(labels, [str(count) for count in failed])})"
    yield from _differing("questions", [run.settings["benchmark"]["sha256"][:12] for run in runs], labels)
    yield from _differing("machines", [_machine(run) for run in runs], labels)
    revisions = [" and ".join(run.summary["sample_revisions"]) for run in runs]
    yield from _differing("code revisions", revisions, labels)
    if any("+changes" in revision for revision in revisions):
        yield "the code had changes that no revision holds (+changes)"
    for run, label in zip(runs, labels, strict=True):
        if run.facts.get("earlier_plans"):
            yield f"{label} was resumed with another plan, so its figures mix two"
    yield from _differing("exact mode", [_on(run.facts.get("exact")) for run in runs], labels)
    leaves = [flat(run.settings["pipeline"]) for run in runs]
    for key in sorted(set().union(*leaves)):
        if not key.startswith(METHOD_SETTINGS) and key != "exact":
            yield from _differing(key, [_plain(key, leaf.get(key)) for leaf in leaves], labels)


def _shared(runs: Sequence[Results]) -> list[list[SampleRecord]]:
    """Per run, its records of the samples that all runs answered, where all were asked the same."""
    base = runs[0].done
    same = [name for name, record in base.items() if all(_asked(run, name) == record.turns for run in runs)]
    return [[run.done[name] for name in same] for run in runs]


def _asked(run: Results, name: str) -> tuple[str, ...] | None:
    return run.done[name].turns if name in run.done else None


def _side_by_side(
    name: str,
    runs: Sequence[Results],
    rows: Sequence[Sequence[SampleRecord]],
    labels: Sequence[str],
    said: tuple[str, ...],
) -> SideBySide:
    identities = tuple(identity(label, rows[0], row) for label, row in zip(labels[1:], rows[1:], strict=True))
    devices = tuple(str(run.facts.get("device", "cpu")) for run in runs)
    exact = all(run.facts.get("exact", False) for run in runs)
    return SideBySide(name, len(rows[0]), standings(rows, labels), identities, said, devices, exact)


def _totals(records: Sequence[SampleRecord]) -> tuple[list[float], list[float]]:
    return [float(sum(map(len, record.tokens))) for record in records], [record.seconds for record in records]


def _first(left: Sequence[Any], right: Sequence[Any]) -> int | None:
    """The first place where two sequences differ; None when they are equal."""
    for index, (ours, theirs) in enumerate(zip(left, right, strict=False)):
        if ours != theirs:
            return index
    return None if len(left) == len(right) else min(len(left), len(right))


def _at(tokens: Sequence[int], index: int) -> int | None:
    return tokens[index] if index < len(tokens) else None


def _machine(run: Results) -> str:
    named = [machine for machine in run.summary["sample_machines"] if machine]
    return " and ".join(named) or str(run.facts.get("environment", {}).get("cpu", "unknown"))


def _on(exact: object) -> str:
    return "unknown" if exact is None else "on" if exact else "off"


def _plain(key: str, value: object) -> str:
    """A setting as it is compared: budgets by size, however they were written."""
    if key in ("memory.device", "memory.host") and isinstance(value, str | int):
        return f"{parse_bytes(value)} bytes"
    return str(value)


def _differing(what: str, values: Sequence[str], labels: Sequence[str]) -> Iterator[str]:
    if len(set(values)) > 1:
        yield f"different {what}: {_each(labels, values)}"


def _each(labels: Sequence[str], values: Sequence[str]) -> str:
    return "; ".join(f"{label}: {value}" for label, value in zip(labels, values, strict=True))
