"""A few rounds under torch's profiler: a trace for Perfetto, one round's timeline, and a page of what costs most."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch._C._profiler import _ExperimentalConfig
from torch.profiler import ProfilerActivity, profile

from specdecodes.benchmark.results.journal import write_json
from specdecodes.benchmark.trace import PHASES, Timeline, named_spans, timelines, total_by_range, typical
from specdecodes.errors import ConfigError
from specdecodes.sampling import SamplingParams
from specdecodes.stats import Round
from specdecodes.tables import markdown

if TYPE_CHECKING:
    from specdecodes.generator import Chunk, Generator
    from specdecodes.prompts import Prompt

TRACE, TIMELINE, SUMMARY = "trace.json.gz", "timeline.json", "profile.md"
FOLDER = "profile"
"""Where they lie in an `--out-dir`; a report shows the timeline that it finds there."""

TOP = 15


@dataclass(frozen=True)
class Profile:
    """What a profiled request showed: `rounds` under the profiler, `before` without it, `costs` as (operator, calls,
    seconds by itself), and the ranges of this library as (range, times, seconds)."""

    rounds: tuple[Round, ...]
    before: tuple[Round, ...]
    ranges: tuple[tuple[str, int, float], ...]
    costs: tuple[tuple[str, int, float], ...]
    timeline: Timeline

    @property
    def slowdown(self) -> float:
        """How much longer a round takes while it is watched; figures of speed are never taken from a profile."""
        return _mean_seconds(self.rounds) / _mean_seconds(self.before)


def record(generator: Generator, prompt: Prompt, params: SamplingParams, folder: Path, *, rounds: int) -> Profile:
    """Answer `prompt`, watching `rounds` rounds after as many unwatched ones; write trace, timeline and summary.

    Raises ConfigError when the answer ends before that.
    """
    folder.mkdir(parents=True, exist_ok=True)
    chunks = generator.stream(prompt, params)
    before = _take(chunks, rounds)
    with _profiler(torch.cuda.is_available()) as profiler:
        watched = _take(chunks, rounds)
    profiler.export_chrome_trace(str(folder / TRACE))
    with gzip.open(folder / TRACE, "rt", encoding="utf-8") as file:
        spans = named_spans(json.load(file))
    timeline = typical(timelines(spans, generator.placement.streamed))
    ranges = tuple(total_by_range(spans))
    result = Profile(tuple(watched), tuple(before), ranges, _costs(profiler), timeline)
    write_json(folder / TIMELINE, {"method": generator.method, "round": timeline.to_json()})
    (folder / SUMMARY).write_text(summary(result, generator.method, generator.model_name), encoding="utf-8")
    return result


def read_timeline(out_dir: Path) -> Timeline | None:
    """The timeline in a result folder; None when no profile was taken there."""
    path = out_dir / FOLDER / TIMELINE
    return Timeline.from_json(json.loads(path.read_text(encoding="utf-8"))["round"]) if path.is_file() else None


def summary(profile_: Profile, method: str, model: str) -> str:
    """A page of Markdown: the ranges, and the operators that cost most."""
    count = len(profile_.rounds)
    lines = [
        f"# Profile: {method} on {model}",
        "",
        f"{count} rounds of {_mean_seconds(profile_.rounds) * 1e3:.3g} ms and "
        f"{sum(len(r.tokens) for r in profile_.rounds) / count:.3g} tokens each, while watched; "
        f"{_mean_seconds(profile_.before) * 1e3:.3g} ms before (x {profile_.slowdown:.2f}). "
        f"{TRACE} opens in https://ui.perfetto.dev.",
        "",
        _table("range (phases first; the others lie in them)", _phases_first(profile_.ranges), count),
        _table("operator, by its own time", profile_.costs, count),
    ]
    return "\n".join(lines)


def _take(chunks: Iterator[Chunk], rounds: int) -> list[Round]:
    taken: list[Round] = []
    for chunk in chunks:
        if chunk.round is not None:
            taken.append(chunk.round)
        if len(taken) == rounds:
            return taken
    raise ConfigError(
        f"the answer ended before {2 * rounds} rounds: half of them run unwatched first; give a smaller --rounds, "
        "another --prompt, or --set sampling.ignore_eos=true with a larger --max-tokens."
    )


def _profiler(cuda: bool) -> profile:
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]
    # The threads that read weights were started long before; only this option shows them.
    return profile(activities=activities, experimental_config=_ExperimentalConfig(profile_all_threads=True))


def _costs(profiler: profile) -> tuple[tuple[str, int, float], ...]:
    """Operators and kernels by the time that is their own."""
    rows = []
    for event in profiler.key_averages():
        if named_spans({"traceEvents": [{"cat": "user_annotation", "ph": "X", "name": event.key, "ts": 0, "dur": 0}]}):
            continue
        seconds = max(event.self_cpu_time_total, event.self_device_time_total) / 1e6
        rows.append((event.key, event.count, seconds))
    return tuple(sorted(rows, key=lambda row: -row[2])[:TOP])


def _phases_first(ranges: Sequence[tuple[str, int, float]]) -> list[tuple[str, int, float]]:
    order = {phase: place for place, phase in enumerate(PHASES)}
    return sorted(ranges, key=lambda row: (order.get(row[0], len(order)), -row[2]))


def _table(title: str, rows: Sequence[tuple[str, int, float]], rounds: int) -> str:
    cells = [
        (_short(name), f"{calls / rounds:.4g}", f"{seconds / rounds * 1e3:.3g}", f"{seconds / calls * 1e3:.3g}")
        for name, calls, seconds in rows
    ]
    return markdown((title, "calls a round", "ms a round", "ms a call"), cells)


def _short(name: str) -> str:
    short = re.sub(r"^## Call CompiledFxGraph (\w{8})\w*.*", r"compiled graph \1", name)
    return short if len(short) <= 60 else short[:59] + "…"


def _mean_seconds(rounds: Sequence[Round]) -> float:
    return sum(sum(round_.seconds.values()) for round_ in rounds) / len(rounds)
