"""On a real, streamed run the phases add up to a clock of our own, and the bytes to those that the stream counted."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

import pytest

from specdecodes.benchmark.questions.samples import Benchmark, Sample
from specdecodes.benchmark.results.reading import read_results
from specdecodes.benchmark.runner import run
from specdecodes.generator import Chunk, Generator
from specdecodes.methods import build
from tests.test_lossless import GREEDY, pipeline_for

QUESTIONS = Benchmark("tiny", "made here", tuple(Sample(str(n), "words", (f"w{n + 5}", "w9")) for n in range(2)))


@dataclass
class Stopwatch:
    """A generator, and the wall clock of its answers."""

    generator: Generator
    seconds: float = 0.0

    def __post_init__(self) -> None:
        self.origin, self.placement = self.generator.origin, self.generator.placement

    def stream(self, prompt, params, *, reuse_cache=False) -> Iterator[Chunk]:
        started = time.perf_counter()
        for chunk in self.generator.stream(prompt, params, reuse_cache=reuse_cache):
            if chunk.generation is not None:
                self.seconds += time.perf_counter() - started
            yield chunk


@pytest.fixture(scope="module", params=["vanilla", "subspec_sd"])
def streamed(request, tiny_checkpoint, tmp_path_factory):
    """A run's summary and results, its stopwatch, and the bytes that its stream counted."""
    pipeline = pipeline_for(request.param, tiny_checkpoint("llama"), None, exact=True, streamed=True)
    pipeline = replace(pipeline, sampling=replace(GREEDY, max_tokens=30), warmup=0)
    folder = tmp_path_factory.mktemp("phases")
    with build(pipeline, progress=lambda text: None) as generator:
        watch = Stopwatch(generator)
        traffic = generator._target.traffic
        summary = run(watch, QUESTIONS, pipeline, folder, notify=lambda line: None)
        counted = generator._target.traffic - traffic
    return summary, read_results(folder / "tiny"), watch, counted


def test_measured_phases_add_up_to_the_wall_clock(streamed):
    summary, results, watch, _ = streamed
    answers = [answer for record in results.records for answer in record.answers]
    phases = sum(sum(answer.prefill_seconds.values()) for answer in answers)
    phases += sum(seconds for answer in answers for round_ in answer.rounds for seconds in round_.seconds.values())
    assert phases == pytest.approx(watch.seconds, rel=0.02)  # before the summary adds the rest to the overhead
    assert sum(summary["phase_seconds"].values()) == pytest.approx(watch.seconds, rel=0.02)
    assert summary["wall_seconds"] == pytest.approx(watch.seconds, rel=0.02)


def test_every_phase_was_measured(streamed):
    summary, *_ = streamed
    drafted = {"draft"} if summary["method"] == "subspec_sd" else set()
    measured = {name for name, seconds in summary["phase_seconds"].items() if seconds > 0}
    assert measured >= {"prefill", "target", "overhead", *drafted}


def test_bytes_add_up_to_those_that_arrived(streamed):
    summary, results, _, counted = streamed
    assert sum(summary["phase_bytes"].values()) == summary["bytes_streamed"] > 0
    plan = results.facts["plan"]
    ahead = plan["ring_slots"] * plan["bytes_per_pass"] / len(plan["streamed"])  # may arrive between two requests
    assert 0 <= counted.bytes_read - summary["bytes_streamed"] <= summary["requests"] * ahead
