"""An arm of `benchmarks/peers.py`: this project. Options: a pipeline's settings by dotted key, and

`blocking`: layers are asked for when they are needed, one at a time; `resident_layers` false: every layer streams.
"""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # a clone that is not installed

import torch

from benchmarks.arms.job import Answer, Job
from benchmarks.baselines import blocking_streams, without_resident_layers
from specdecodes.config import Draft, Memory, Pipeline, Target, override
from specdecodes.errors import SpecDecodesError
from specdecodes.methods import build
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
    streams = blocking_streams() if job.options.get("blocking") else contextlib.nullcontext()
    with streams, build(pipeline, progress=lambda text: print(text, file=sys.stderr)) as generator:
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
    return pipeline if resident else without_resident_layers(pipeline)


if __name__ == "__main__":
    sys.exit(main())
