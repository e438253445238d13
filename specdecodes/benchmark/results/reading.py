"""Result folders as they are read back, finished or interrupted: for tables, comparisons and reports."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from specdecodes.benchmark.results.journal import RUN, SAMPLES, SETTINGS, parse, read_json
from specdecodes.benchmark.results.records import ResultsError, SampleRecord
from specdecodes.benchmark.results.summary import summarize_run


@dataclass(frozen=True)
class Results:
    """One benchmark's results in `folder`.

    `settings` is what was asked for: `pipeline` (target, method, draft, tree, memory, sampling, ...) and `benchmark`
    (name and sha256 of the questions). `facts` is what was known before the first answer: benchmark, source, tasks,
    method, model, dtype, device, exact, kernel, asked (the number of samples), predicted_tokens_per_second, plan (the
    whole placement), plan_rows (part, where, size), plan_summary (one line), earlier_plans (such lines, where a resumed
    run was placed otherwise before), environment, command.
    """

    folder: Path
    settings: Mapping[str, Any]
    facts: Mapping[str, Any]
    records: tuple[SampleRecord, ...]  # in the order of asking

    @property
    def benchmark(self) -> str:
        return str(self.settings["benchmark"]["name"])

    @property
    def method(self) -> str:
        return str(self.settings["pipeline"]["method"])

    @cached_property
    def done(self) -> dict[str, SampleRecord]:
        """The answered samples, by id."""
        return {record.id: record for record in self.records if record.done}

    @cached_property
    def summary(self) -> dict[str, Any]:
        """As in `summary.json`, computed from the samples: it is there for an interrupted run too."""
        return summarize_run(self.facts, self.records)


def read_results(folder: Path) -> Results:
    """The results of one benchmark in `folder`. Nothing is changed there. Raises ResultsError when there are none."""
    settings, facts = read_json(folder / SETTINGS), read_json(folder / RUN)
    if settings is None or facts is None or not (folder / SAMPLES).is_file():
        raise ResultsError(
            f"{folder} holds no results: {SAMPLES}, {SETTINGS} and {RUN} of a run-benchmark belong there."
        )
    try:
        data = (folder / SAMPLES).read_bytes()
    except OSError as error:
        raise ResultsError(f"{folder / SAMPLES} cannot be read: {error.strerror}.") from error
    records, _ = parse(data, folder / SAMPLES)
    return Results(folder, settings, facts, tuple(records.values()))


def find_results(folder: Path) -> dict[str, Results]:
    """Results by benchmark in an `--out-dir`, or of the one benchmark whose folder this is.

    Raises ResultsError when there are none.
    """
    inside = sorted(path.parent for path in folder.glob(f"*/{SAMPLES}"))
    found = [folder] if (folder / SAMPLES).is_file() else inside
    if not found:
        raise ResultsError(f"{folder} holds no results; give the --out-dir of a run-benchmark, or a benchmark in it.")
    return {results.benchmark: results for results in map(read_results, found)}
