"""An arm of `benchmarks/peers.py`: this project. Options: a pipeline's settings by dotted key, and

`blocking`: layers are asked for when they are needed, one at a time; `resident_layers` false: every layer streams.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # a clone that is not installed

import torch

from benchmarks.arms.job import Answer, Job
from benchmarks.gpu import Blocking, BlockingCuda
from specdecodes.config import Draft, Memory, Pipeline, Target, override
from specdecodes.errors import BudgetError, SpecDecodesError
from specdecodes.methods import build, plan_for
from specdecodes.sampling import SamplingParams
from specdecodes.stats import summarize

FIGURES = ("tau", "tokens_per_round", "draft_step_s", "bytes_per_round", "link_gbps", "link_utilization")


def main() -> int:
    try:
        with torch.no_grad():
            answer(Job.read())
    except SpecDecodesError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def answer(job: Job) -> None:
    pipeline = pipeline_of(job)
    params = SamplingParams(ignore_eos=True, repetition_penalty=job.penalty)
    with streams_of(job), build(pipeline, progress=lambda text: print(text, file=sys.stderr)) as generator:
        for prompt, tokens, counts in job.requests():
            told, generation = Answer(), None
            for chunk in generator.stream(prompt, SamplingParams(**vars(params) | {"max_tokens": tokens})):
                if chunk.tokens:
                    told.add(list(chunk.tokens))
                generation = chunk.generation
            if counts and generation is not None:
                summary = summarize([generation])
                told.tell(**{name: summary[name] for name in FIGURES}, **generation.phase_seconds)


def pipeline_of(job: Job) -> Pipeline:
    """The arm's settings; with `resident_layers` false its budget is the least that works."""
    options = dict(job.options)
    method, resident = options.pop("method"), options.pop("resident_layers", True)
    options.pop("blocking", None)
    pipeline = Pipeline(
        method=method,
        target=Target(job.model, device=job.device),
        draft=Draft(job.draft_model, temperature=1.0) if method == "classic_sd" else Draft(),
        memory=Memory(device=job.budget),
        max_length=job.max_length,
    )
    for key, value in options.items():
        pipeline = override(pipeline, key, value)
    return pipeline if resident else override(pipeline, "memory.device", least_budget(pipeline))


def least_budget(pipeline: Pipeline) -> int:
    """Bytes with which every layer streams; the arm's own budget if that is less, for the plan to refuse."""
    try:
        plan_for(override(pipeline, "memory.device", 1))
    except BudgetError as refused:
        return min(1 + refused.shortfall_bytes, pipeline.memory.device_bytes or sys.maxsize)
    raise AssertionError("no model runs in one byte")


@contextlib.contextmanager
def streams_of(job: Job) -> Iterator[None]:
    """With `blocking`, streams without prefetch while the generator is built."""
    with contextlib.ExitStack() as until_end:
        if job.options.get("blocking"):
            for name, stream in (("LayerStream", Blocking), ("CudaLayerStream", BlockingCuda)):
                until_end.enter_context(mock.patch(f"specdecodes.methods.assembly.{name}", stream))
        yield


if __name__ == "__main__":
    sys.exit(main())
