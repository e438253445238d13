"""Asks a generator the samples of a benchmark, keeps every answer at once, and sums up. An interrupted run goes on.

Every method is asked the same samples in the same order by this code, and each sample starts on an empty cache.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from specdecodes.benchmark import environment
from specdecodes.benchmark.records import SampleLog, decode, encode, open_log, read_json, write_json
from specdecodes.benchmark.samples import Benchmark, Sample
from specdecodes.config import Pipeline, to_dict
from specdecodes.errors import SpecDecodesError
from specdecodes.sampling import SamplingParams
from specdecodes.stats import Generation, summarize

if TYPE_CHECKING:
    from specdecodes.generator import Chunk
    from specdecodes.offload.plan import Placement

Messages = list[dict[str, str]]
Notify = Callable[[str], None]

WARMUP = Sample("warm-up", "", ("Write a short essay about the seasons of the year and what people do in each.",))
WARMUP_TOKENS = 64
PROGRESS_SECONDS = 1.0


class Answering(Protocol):
    """What a benchmark needs of a generator."""

    @property
    def method(self) -> str: ...
    @property
    def model_name(self) -> str: ...
    @property
    def exact(self) -> bool: ...
    @property
    def placement(self) -> Placement: ...
    def stream(self, prompt: Messages, params: SamplingParams, *, reuse_cache: bool = False) -> Iterator[Chunk]: ...


def run(
    generator: Answering,
    benchmark: Benchmark,
    pipeline: Pipeline,
    out_dir: Path,
    *,
    max_samples: int | None = None,
    command: str = "",
    notify: Notify = print,
    progress: Notify = lambda text: None,
) -> dict[str, Any]:
    """Run the first `max_samples` of `benchmark` that `out_dir` does not hold yet; return and write the summary of all.

    `notify` gets lines to keep; `progress`, once a second, a text that replaces the one before. A sample that ends
    in a SpecDecodesError is recorded as failed and tried again by the next run. Raises ResultsError when results cannot
    be kept or belong to other settings, and KeyboardInterrupt after Ctrl-C (finished samples stay).
    """
    samples = benchmark.select(pipeline.seed, max_samples)
    folder = out_dir / benchmark.name
    notify(f"{benchmark.name}: {benchmark.source}")
    with open_log(folder, settings(benchmark, pipeline), notify) as log:
        pending = [sample for sample in samples if not is_done(log.records.get(sample.id))]
        if len(pending) < len(samples):
            notify(f"{benchmark.name}: {len(samples) - len(pending)} of {len(samples)} samples are already in {folder}")
        examiner = Examiner(generator, pipeline.sampling, progress)
        try:
            if pending:
                _warm_up(examiner, pipeline.warmup, notify)
            _ask_all(examiner, pending, log, notify)
        except KeyboardInterrupt:
            notify(f"{benchmark.name}: stopped; the same command goes on from {log.path}")
            raise
        records = [log.records[sample.id] for sample in samples]
        summary = _summary(generator, benchmark, records, command)
        write_json(folder / "summary.json", summary)
    return summary


def finished(
    benchmark: Benchmark, pipeline: Pipeline, out_dir: Path, *, max_samples: int | None = None, notify: Notify = print
) -> dict[str, Any] | None:
    """The summary that `run` would return without asking anything, or None when samples are left to ask.

    Worth calling before a model is loaded: raises ResultsError for whatever would keep `run` from using `out_dir`.
    """
    samples = benchmark.select(pipeline.seed, max_samples)
    folder = out_dir / benchmark.name
    with open_log(folder, settings(benchmark, pipeline), notify) as log:
        summary = read_json(folder / "summary.json")
        complete = all(is_done(log.records.get(sample.id)) for sample in samples)
        return summary if complete and summary is not None and summary["samples"] == len(samples) else None


def settings(benchmark: Benchmark, pipeline: Pipeline) -> dict[str, Any]:
    """All that decides what a sample's record holds; samples made with other settings are never mixed."""
    return {"pipeline": to_dict(pipeline), "benchmark": {"name": benchmark.name, "sha256": benchmark.sha256}}


def is_done(record: Mapping[str, Any] | None) -> bool:
    return record is not None and record["status"] == "done"


@dataclass(frozen=True)
class Examiner:
    """Asks one generator, always with the same settings."""

    generator: Answering
    params: SamplingParams
    progress: Notify

    def ask(self, sample: Sample, label: str) -> list[Generation]:
        """One generation per turn; a turn sees the answers before it and keeps their cache rows."""
        messages: Messages = []
        generations: list[Generation] = []
        for number, turn in enumerate(sample.turns, 1):
            messages.append({"role": "user", "content": turn})
            generation = self._answer(messages, bool(generations), f"{label}, turn {number}")
            if generation.finish_reason == "interrupted":
                raise KeyboardInterrupt
            messages.append({"role": "assistant", "content": generation.text})
            generations.append(generation)
        return generations

    def _answer(self, messages: Messages, reuse_cache: bool, label: str) -> Generation:
        self.progress(label)
        tokens, shown = 0, time.perf_counter()
        for chunk in self.generator.stream(messages, self.params, reuse_cache=reuse_cache):
            tokens += len(chunk.tokens)
            if chunk.generation is not None:
                return chunk.generation
            if time.perf_counter() - shown > PROGRESS_SECONDS:
                shown = time.perf_counter()
                self.progress(f"{label}: {tokens} tokens")
        raise AssertionError("a stream ends with its generation")


def _warm_up(examiner: Examiner, requests: int, notify: Notify) -> None:
    started = time.perf_counter()
    params = replace(examiner.params, max_tokens=min(WARMUP_TOKENS, examiner.params.max_tokens))
    for _ in range(requests):
        replace(examiner, params=params).ask(WARMUP, "warm-up")
    if requests:
        notify(f"warm-up: {requests} request(s) in {time.perf_counter() - started:.1f} s, not counted")


def _ask_all(examiner: Examiner, samples: Sequence[Sample], log: SampleLog, notify: Notify) -> None:
    revision = environment.revision()
    started = time.perf_counter()
    for number, sample in enumerate(samples, 1):
        label = f"[{number}/{len(samples)}] {sample.category} {sample.id}"
        record = {"id": sample.id, "category": sample.category, "revision": revision, "turns": list(sample.turns)}
        try:
            generations = examiner.ask(sample, label)
        except SpecDecodesError as error:
            log.append(record | {"status": "failed", "error": f"{type(error).__name__}: {error}"})
            notify(f"{label}: FAILED, {error}")
            continue
        speed = summarize(generations)
        shown = {name: speed[name] for name in ("new_tokens", "tokens_per_second", "tau", "tokens_per_round")}
        log.append(record | {"status": "done"} | shown | {"answers": [encode(g) for g in generations]})
        left = (time.perf_counter() - started) / number * (len(samples) - number)
        notify(
            f"{label}: {speed['new_tokens']} tokens, {speed['tokens_per_second']:.2f} tokens/s, tau {speed['tau']:.2f}"
            + (f", about {_spoken(left)} left" if left else "")
        )


def _spoken(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"


def _summary(
    generator: Answering, benchmark: Benchmark, records: Sequence[Mapping[str, Any]], command: str
) -> dict[str, Any]:
    done = [record for record in records if is_done(record)]
    generations = [decode(row) for record in done for row in record["answers"]]
    metrics: dict[str, Any] = summarize(generations) if generations else {}
    return {
        "method": generator.method,
        "model": generator.model_name,
        "benchmark": benchmark.name,
        "source": benchmark.source,
        "exact": generator.exact,
        **metrics,
        "samples": len(done),
        "requests": len(generations),
        "failed": {record["id"]: record["error"] for record in records if not is_done(record)},
        "predicted_tokens_per_second": generator.placement.predicted.tokens_per_second,
        "plan": asdict(generator.placement),
        "peak_device_bytes": environment.peak_device_bytes(),
        "environment": environment.describe() | {"sample_revisions": sorted({r["revision"] for r in records})},
        "command": command,
    }
