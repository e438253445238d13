"""What is kept of every sample: one JSON object a line in `samples.jsonl`, readable by versions of the same format.

Beside it lie `settings.json` (what decides the answers; samples of other settings are never added), `run.json` (what is
known before the first answer: method, model, plan, environment, command) and `summary.json` (the figures).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields
from typing import Any

from specdecodes.errors import SpecDecodesError
from specdecodes.stats import Generation, LevelWork, Round, summarize

FORMAT = 2
"""Raised when a field changes its meaning; a new field with a default does not raise it."""

DONE, FAILED = "done", "failed"


class ResultsError(SpecDecodesError):
    """Results that cannot be written, read, or joined with those already there."""


@dataclass(frozen=True)
class SampleRecord:
    """One sample that was asked, as `samples.jsonl` keeps it. In the file:

    - `answers` holds one object a turn with the fields of `stats.Generation`: text, tokens, prompt_tokens,
      cached_tokens, prefill_seconds (by phase), prefill_bytes, prefill_read_seconds, total_seconds,
      time_to_first_token_s, finish_reason;
    - its `rounds` is an object with one list a field of `stats.Round`, so that `rounds["accepted"][i]` belongs to round
      i: tokens, proposed, accepted, proposed_by_depth, levels (draft steps), seconds (by phase, see `stats.PHASES`),
      bytes_streamed, read_seconds, committed, middles (of each middle model an object with the fields of
      `stats.LevelWork`);
    - new_tokens, tokens_per_second, tau and tokens_per_round of a done sample are written for whoever looks at the
      file; readers compute them again.
    """

    id: str
    category: str
    turns: tuple[str, ...]  # the user's
    status: str  # done or failed; a failed sample is asked again by the next run
    answers: tuple[Generation, ...] = ()  # one a turn; empty when failed
    error: str | None = None  # type and message of what made it fail
    score: float | None = None  # 0 wrong to 1 right; None when it was not scored
    scoring: Mapping[str, str] = field(default_factory=dict)  # extracted, expected and note of a `samples.Score`
    peak_device_bytes: int = 0  # of the process so far, as `environment.peak_device_bytes`
    revision: str = ""  # of the code that asked
    machine: str = ""  # that it ran on, as `environment.machine_name`
    finished: str = ""  # UTC, ISO 8601
    format: int = FORMAT

    @property
    def done(self) -> bool:
        return self.status == DONE

    @property
    def tokens(self) -> tuple[tuple[int, ...], ...]:
        """New tokens, turn by turn."""
        return tuple(answer.tokens for answer in self.answers)

    @property
    def seconds(self) -> float:
        """Wall clock of its answers."""
        return sum(answer.total_seconds for answer in self.answers)


def to_row(record: SampleRecord) -> dict[str, Any]:
    """`record` as plain data, ready for JSON."""
    row = {spec.name: getattr(record, spec.name) for spec in fields(record)}
    if record.answers:
        speed = summarize(record.answers)
        row |= {name: speed[name] for name in ("new_tokens", "tokens_per_second", "tau", "tokens_per_round")}
    return row | {"answers": [encode(answer) for answer in record.answers], "turns": list(record.turns)}


def from_row(row: Mapping[str, Any]) -> SampleRecord:
    """The inverse of `to_row`, also after a trip through JSON. Fields that it does not know are left out. Raises
    ResultsError for another format, and KeyError or TypeError for what is no record."""
    if row["format"] != FORMAT:
        raise ResultsError(f"results of format {row['format']} were made by another version; this one reads {FORMAT}.")
    known = {spec.name: row[spec.name] for spec in fields(SampleRecord) if spec.name in row}
    answers = tuple(decode(answer) for answer in row.get("answers", ()))
    return SampleRecord(**known | {"answers": answers, "turns": tuple(row["turns"])})


def encode(generation: Generation) -> dict[str, Any]:
    """`generation` as plain data; its rounds become one list a field, which keeps long runs readable and small."""
    row = asdict(generation)
    row["rounds"] = {spec.name: [round_[spec.name] for round_ in row["rounds"]] for spec in fields(Round)}
    return row


def decode(row: Mapping[str, Any]) -> Generation:
    """The inverse of `encode`, also after a trip through JSON; fields that an older file lacks get their defaults."""
    known = {spec.name: _tupled(row[spec.name]) for spec in fields(Generation) if spec.name in row}
    return Generation(**known | {"rounds": _rounds(row["rounds"])})


def _rounds(columns: Mapping[str, Sequence[Any]]) -> tuple[Round, ...]:
    names = [spec.name for spec in fields(Round) if spec.name in columns or spec.default is MISSING]
    cells = zip(*(columns[name] for name in names), strict=True)
    return tuple(_round(dict(zip(names, row, strict=True))) for row in cells)


def _round(row: Mapping[str, Any]) -> Round:
    middles = tuple(LevelWork(**level) for level in row.get("middles", ()))
    return Round(**{name: _tupled(value) for name, value in row.items()} | {"middles": middles})


def _tupled(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
