"""The figures of a run, from its records alone: a resumed run sums up like one that was never stopped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from specdecodes.benchmark.results.intervals import mean_interval, ratio_interval
from specdecodes.benchmark.results.records import FORMAT, SampleRecord
from specdecodes.stats import Generation, summarize

CATEGORY_FIGURES = (
    "requests",
    "new_tokens",
    "tokens_per_second",
    "decode_tokens_per_second",
    "tau",
    "tokens_per_round",
    "wall_seconds",
)


def summarize_run(facts: Mapping[str, Any], records: Sequence[SampleRecord]) -> dict[str, Any]:
    """What `summary.json` holds: `facts` of the run (see `run.json`) and the figures of its done samples.

    Rates are ratios of sums. Intervals are 95% bootstrap intervals over samples, null for fewer than two. `score` is
    the mean of the `scored` samples' scores, null when none was scored. Without a done sample there are counts only.
    """
    done = [record for record in records if record.done]
    return {
        **facts,
        **figures(done),
        "samples": len(done),
        "failed": {record.id: record.error for record in records if not record.done},
        **scores(done),
        "by_category": _by_category(done),
        "peak_device_bytes": max((record.peak_device_bytes for record in records), default=0),
        "sample_revisions": sorted({record.revision for record in records}),
        "sample_machines": sorted({record.machine for record in records}),
        "format": FORMAT,
    }


def figures(done: Sequence[SampleRecord]) -> dict[str, Any]:
    """The measured figures of samples, all their turns together, with intervals; nothing but a count for none."""
    answers = [answer for record in done for answer in record.answers]
    if not answers:
        return {"requests": 0}
    tokens = [float(sum(map(len, record.tokens))) for record in done]
    seconds = [record.seconds for record in done]
    rates = [count / time if time else 0.0 for count, time in zip(tokens, seconds, strict=True)]
    decoding = [[a for a in record.answers if a.rounds] for record in done]
    rounds = [[r for a in row for r in a.rounds] for row in decoding if row]
    return {
        **summarize(answers),
        "requests": len(answers),
        "tokens_per_second_interval": ratio_interval(tokens, seconds) if all(seconds) else None,
        "tokens_per_second_sample_mean": sum(rates) / len(rates),
        "tokens_per_second_sample_mean_interval": mean_interval(rates),
        "decode_tokens_per_second_interval": _decode_interval([row for row in decoding if row]),
        "tau_interval": ratio_interval([sum(r.accepted for r in row) for row in rounds], list(map(len, rounds))),
    }


def _decode_interval(rows: Sequence[Sequence[Generation]]) -> tuple[float, float] | None:
    tokens = [float(sum(len(r.tokens) for a in row for r in a.rounds)) for row in rows]
    seconds = [sum(a.decode_seconds for a in row) for row in rows]
    return ratio_interval(tokens, seconds) if all(seconds) else None


def scores(done: Sequence[SampleRecord]) -> dict[str, Any]:
    """`score`, its interval and the number of `scored` samples among `done`."""
    known = [record.score for record in done if record.score is not None]
    return {
        "score": sum(known) / len(known) if known else None,
        "score_interval": mean_interval(known),
        "scored": len(known),
    }


def _by_category(done: Sequence[SampleRecord]) -> dict[str, dict[str, Any]]:
    """A few figures of each category; empty when there is only one."""
    names = sorted({record.category for record in done})
    if len(names) < 2:
        return {}
    grouped = {name: [record for record in done if record.category == name] for name in names}
    return {name: _brief(records) for name, records in grouped.items()}


def _brief(records: Sequence[SampleRecord]) -> dict[str, Any]:
    measured = figures(records)
    return {"samples": len(records), **{name: measured[name] for name in CATEGORY_FIGURES}, **scores(records)}
