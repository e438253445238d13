"""Asks a generator the samples of a benchmark, keeps every answer at once, and sums up. An interrupted run goes on.

Every method is asked the same samples in the same order by this code, and each sample starts on an empty cache.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from specdecodes.benchmark import environment
from specdecodes.benchmark.progress import ASKING, Progress, Tally
from specdecodes.benchmark.questions.samples import Benchmark, Sample, Scorer
from specdecodes.benchmark.results.journal import RUN, SUMMARY, SampleLog, open_log, read_json, write_json
from specdecodes.benchmark.results.records import DONE, FAILED, FORMAT, SampleRecord
from specdecodes.benchmark.results.summary import summarize_run
from specdecodes.config import Pipeline, to_dict
from specdecodes.errors import SpecDecodesError
from specdecodes.notify import Notify
from specdecodes.sampling import SamplingParams
from specdecodes.stats import Generation

if TYPE_CHECKING:
    from specdecodes.generator import Chunk, Origin
    from specdecodes.offload.planning.plan import Placement

Messages = list[dict[str, str]]
Watch = Callable[[Progress], None]

WARMUP = Sample("warm-up", "", ("Write a short essay about the seasons of the year and what people do in each.",))
WARMUP_TOKENS = 64
WARMUP_WORDS = 256
"""Of a first prompt, where the context has room for eight times as many: long ones take steps that others do not."""
PROGRESS_SECONDS = 1.0

LAYOUT = ("resident", "streamed", "pinned", "substituted")
"""The parts of a plan that say where layers live."""

SAMPLE_ERRORS = (SpecDecodesError, RuntimeError)
"""What fails one sample and leaves the others: ours, and torch's, such as memory that ran out."""


class Answering(Protocol):
    """What a benchmark needs of a generator."""

    origin: Origin
    placement: Placement

    def stream(self, prompt: Messages, params: SamplingParams, *, reuse_cache: bool = False) -> Iterator[Chunk]: ...


def run(
    generator: Answering,
    benchmark: Benchmark,
    pipeline: Pipeline,
    out_dir: Path,
    *,
    max_samples: int | None = None,
    command: str = "",
    score: bool = False,
    notify: Notify = print,
    watch: Watch = lambda seen: None,
) -> dict[str, Any]:
    """Run the first `max_samples` of `benchmark` that `out_dir` does not hold yet; return and write the summary of all.

    `score` holds answers against the benchmark's own where it has them; samples that were answered before but not
    scored are scored from their recorded answers. `notify` gets lines to keep; `watch` is told where the run is, at
    least when a sample begins and ends. A sample that ends in an error is recorded as failed and tried again by the
    next run. Raises ResultsError when results cannot be kept or belong to other settings, and KeyboardInterrupt after
    Ctrl-C (finished samples stay).
    """
    samples = benchmark.select(pipeline.seed, max_samples)
    folder = out_dir / benchmark.name
    notify(f"{benchmark.name}: {benchmark.source}")
    with open_log(folder, settings(benchmark, pipeline), notify) as log:
        pending = [sample for sample in samples if not is_done(log.records.get(sample.id))]
        before = len(samples) - len(pending)
        if before:
            notify(
                f"{benchmark.name}: {before} of {len(samples)} samples are already in {folder} and are not asked again "
                "(--restart drops them)"
            )
        facts = run_facts(generator, benchmark, len(samples), command)
        facts["earlier_plans"] = _earlier_plans(folder, facts, notify) if log.records else []
        write_json(folder / RUN, facts)
        asking = Asking(generator, pipeline.sampling, watch, Tally(benchmark.name, before, len(samples)))
        try:
            if pending:
                _warm_up(generator, pipeline, notify, watch)
            scorer = benchmark.score if score else None
            _ask_all(asking, pending, log, scorer)
            _score_rest(samples, log, scorer)
        except KeyboardInterrupt:
            notify(f"{benchmark.name}: stopped; the same command goes on from {log.path}")
            raise
        return _sum_up(folder, facts, samples, log)


def finished(
    benchmark: Benchmark,
    pipeline: Pipeline,
    out_dir: Path,
    *,
    max_samples: int | None = None,
    score: bool = False,
    notify: Notify = print,
) -> dict[str, Any] | None:
    """What `run` would do without a model: the summary when all samples are answered, None when some are left to ask.

    Raises ResultsError for whatever would keep `run` from using `out_dir`.
    """
    samples = benchmark.select(pipeline.seed, max_samples)
    folder = out_dir / benchmark.name
    with open_log(folder, settings(benchmark, pipeline), notify) as log:
        facts = read_json(folder / RUN)
        if facts is None or not all(is_done(log.records.get(sample.id)) for sample in samples):
            return None
        _score_rest(samples, log, benchmark.score if score else None)
        return _sum_up(folder, facts | {"asked": len(samples)}, samples, log)


def settings(benchmark: Benchmark, pipeline: Pipeline) -> dict[str, Any]:
    """All that decides what a sample's record holds; samples made with other settings are never mixed."""
    return {"pipeline": to_dict(pipeline), "benchmark": {"name": benchmark.name, "sha256": benchmark.sha256}}


def run_facts(generator: Answering, benchmark: Benchmark, asked: int, command: str) -> dict[str, Any]:
    """What is known of a run before its first answer, as `results.Results.facts` describes it."""
    placement = generator.placement
    return {
        "benchmark": benchmark.name,
        "source": benchmark.source,
        "tasks": list(benchmark.tasks),
        **asdict(generator.origin),
        "asked": asked,
        "predicted_tokens_per_second": placement.predicted.tokens_per_second,
        "plan": asdict(placement),
        "plan_summary": placement.summary(),
        "plan_rows": [list(row) for row in placement.rows()],
        "environment": environment.describe(),
        "command": command,
        "format": FORMAT,
    }


def _earlier_plans(folder: Path, facts: Mapping[str, Any], notify: Notify) -> list[str]:
    """Plans by which the samples in `folder` were answered, where they are not the present one.

    The tokens do not depend on a plan, but the figures do, and a plan follows what the machine has and has measured.
    """
    before = read_json(folder / RUN)
    if before is None:
        return []
    plans = list(before.get("earlier_plans", []))
    if any(before["plan"][part] != list(facts["plan"][part]) for part in LAYOUT):
        notify(f"{facts['benchmark']}: earlier samples ran on another plan: {before['plan_summary']}")
        plans.append(before["plan_summary"])
    return plans


def is_done(record: SampleRecord | None) -> bool:
    return record is not None and record.done


@dataclass(frozen=True)
class Asking:
    """Asks one generator, always with the same settings, and tells how far it is."""

    generator: Answering
    params: SamplingParams
    watch: Watch
    tally: Tally

    def ask(self, sample: Sample) -> tuple[Generation, ...]:
        """One generation per turn; a turn sees the answers before it and keeps their cache rows."""
        messages: Messages = []
        answers: list[Generation] = []
        self.watch(self.tally.begin(sample))
        for number, turn in enumerate(sample.turns, 1):
            messages.append({"role": "user", "content": turn})
            answer = self._answer(messages, number)
            if answer.finish_reason == "interrupted":
                raise KeyboardInterrupt
            messages.append({"role": "assistant", "content": answer.text})
            answers.append(answer)
        return tuple(answers)

    def _answer(self, messages: Messages, turn: int) -> Generation:
        shown = time.perf_counter()
        for chunk in self.generator.stream(messages, self.params, reuse_cache=turn > 1):
            if chunk.generation is not None:
                return chunk.generation
            self.tally.count(chunk)
            if time.perf_counter() - shown > PROGRESS_SECONDS:
                shown = time.perf_counter()
                self.watch(self.tally.seen(ASKING, turn))
        raise AssertionError("a stream ends with its generation")


def _warm_up(generator: Answering, pipeline: Pipeline, notify: Notify, watch: Watch) -> None:
    started = time.perf_counter()
    params = replace(pipeline.sampling, max_tokens=min(WARMUP_TOKENS, pipeline.sampling.max_tokens))
    (question,) = WARMUP.turns
    times = min(WARMUP_WORDS, pipeline.max_length // 8) // len(question.split()) or 1
    for number in range(pipeline.warmup):
        asked = WARMUP if number else replace(WARMUP, turns=(" ".join([question] * times),))
        Asking(generator, params, watch, Tally(WARMUP.id, number, pipeline.warmup)).ask(asked)
    if pipeline.warmup:
        notify(f"warm-up: {pipeline.warmup} request(s) in {time.perf_counter() - started:.1f} s, not counted")


def _ask_all(asking: Asking, samples: Sequence[Sample], log: SampleLog, scorer: Scorer | None) -> None:
    revision, machine = environment.revision(), environment.machine_name()
    for sample in samples:
        record = SampleRecord(sample.id, sample.category, sample.turns, DONE, revision=revision, machine=machine)
        try:
            record = replace(record, answers=asking.ask(sample))
        except SAMPLE_ERRORS as error:
            record = replace(record, status=FAILED, error=f"{type(error).__name__}: {error}")
        record = replace(
            record,
            peak_device_bytes=environment.peak_device_bytes(asking.generator.origin.device),
            finished=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        log.append(_scored(record, sample, scorer))
        asking.watch(asking.tally.seen(record.status, len(record.answers), record.error))


def _score_rest(samples: Sequence[Sample], log: SampleLog, scorer: Scorer | None) -> None:
    """Score what earlier runs answered and left without a score; the line that is added replaces theirs."""
    for sample in samples:
        record = log.records[sample.id]
        if record.done and record.score is None:
            scored = _scored(record, sample, scorer)
            if scored.score is not None:
                log.append(scored)


def _sum_up(folder: Path, facts: dict[str, Any], samples: Sequence[Sample], log: SampleLog) -> dict[str, Any]:
    summary = summarize_run(facts, [log.records[sample.id] for sample in samples])
    write_json(folder / SUMMARY, summary)
    return summary


def _scored(record: SampleRecord, sample: Sample, scorer: Scorer | None) -> SampleRecord:
    verdict = scorer(sample, record.answers[-1].text) if scorer and record.done else None
    if verdict is None:
        return record
    scoring = {"extracted": verdict.extracted, "expected": verdict.expected, "note": verdict.note}
    return replace(record, score=float(verdict.correct), scoring=scoring)
