"""Opening a pipeline in front of a user: the plan first, then the work, each step named while it runs."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from rich.console import Console

from specdecodes.cli.progress import live_line, working
from specdecodes.cli.report import plan_table

if TYPE_CHECKING:
    from specdecodes.config import Pipeline
    from specdecodes.generator import Chunk, Generator
    from specdecodes.sampling import SamplingParams
    from specdecodes.stats import Generation

PLANNING = "planning: reading headers, timing the disk and a few steps; a first start builds kernels, some seconds"
COMPILING_TOKENS = 8
"""Enough for a second round: the first has no tree to keep rows of."""


@contextmanager
def opened(pipeline: Pipeline, console: Console) -> Iterator[Generator]:
    """The pipeline's generator, compiled, closed at the end. Progress goes to `console`, which is standard error."""
    with working(console, PLANNING):
        from specdecodes.methods import build, plan_for

        placement = plan_for(pipeline)
    console.print(plan_table(placement, pipeline))

    def note(text: str) -> None:
        console.print(text, style="dim", highlight=False, markup=False)

    with build(pipeline, placement, progress=note) as generator:
        if pipeline.compile:
            with working(console, "compiling; later starts find the steps cached"):
                note(_compile(generator))
        yield generator


def _compile(generator: Generator) -> str:
    """Answer a word, so that every step is built before a question waits for it; tells what that took."""
    from specdecodes.sampling import SamplingParams

    log = generator.compile_log
    graphs, seconds = log.graphs, log.seconds
    generator.generate("Hello", SamplingParams(max_tokens=COMPILING_TOKENS, ignore_eos=True))
    return f"compiled in {log.seconds - seconds:.1f} s (graphs: {log.graphs - graphs})"


def answer(
    generator: Generator,
    prompt: str | Sequence[dict[str, str]],
    params: SamplingParams,
    *,
    reuse_cache: bool = False,
) -> Generation:
    """Write the answer to standard output as it arrives. Ctrl-C ends the answer, whose `finish_reason` then says so."""
    chunks: list[Chunk] = []
    started, first = time.perf_counter(), 0.0
    try:
        with ExitStack() as waiting:
            waiting.enter_context(live_line(Console(stderr=True)))("reading the prompt")
            for chunk in generator.stream(prompt, params, reuse_cache=reuse_cache):
                waiting.close()  # the line goes before the first word comes
                first = first or time.perf_counter() - started
                chunks.append(chunk)
                sys.stdout.write(chunk.text)
                sys.stdout.flush()
        generation = chunks[-1].generation
        assert generation is not None, "the last chunk carries the generation"
    except KeyboardInterrupt:
        generation = _interrupted(chunks, len(generator.encode(prompt)), first, time.perf_counter() - started)
    sys.stdout.write("\n")
    return generation


def _interrupted(chunks: Sequence[Chunk], prompt_tokens: int, first: float, total: float) -> Generation:
    """What was answered until Ctrl-C, measured like a whole answer."""
    from specdecodes.stats import Generation

    return Generation(
        text="".join(chunk.text for chunk in chunks),
        tokens=tuple(token for chunk in chunks for token in chunk.tokens),
        prompt_tokens=prompt_tokens,
        cached_tokens=0,
        rounds=tuple(chunk.round for chunk in chunks if chunk.round is not None),
        prefill_seconds={"target": first},
        total_seconds=total,
        time_to_first_token_s=first,
        prefill_bytes=0,
        finish_reason="interrupted",
    )
