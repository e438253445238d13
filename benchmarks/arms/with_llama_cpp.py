"""An arm of `benchmarks/peers.py`: llama.cpp through llama-cpp-python, weights read through mmap.

    python benchmarks/arms/with_llama_cpp.py JOB            as the benchmark starts it
    python benchmarks/arms/with_llama_cpp.py --quantize BF16.gguf Q4.gguf

Option `repack` false: no copy of the weights in a layout of the processor's, which crashes on some and exceeds a cap.
Needs nothing else of this project's requirements, so it may run in an interpreter of its own.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import llama_cpp
import numpy as np
from job import Answer, Job


def main() -> int:
    if sys.argv[1] == "--quantize":
        return quantize(*sys.argv[2:])
    job = Job.read()
    if not job.options.get("repack", True):
        keep_weights_as_they_are()
    model = llama_cpp.Llama(
        job.model,
        n_ctx=job.max_length,
        n_threads=job.threads,
        n_threads_batch=job.threads,
        n_gpu_layers=layers_on_device(job),
        use_mmap=True,
        verbose=False,
    )
    for prompt, tokens, counts in job.requests():
        told, step, seen = Answer(), list(prompt), set(prompt)
        model.reset()
        for _ in range(tokens):
            model.eval(step)
            step = [choice(model, seen, job.penalty)]
            seen.update(step)
            told.add(step)
        if counts:
            told.tell()
    return 0


def keep_weights_as_they_are() -> None:
    """Models loaded from now on compute from the file's own layout, with no repacked copy of the weights."""
    defaults = llama_cpp.llama_cpp.llama_model_default_params

    def plain() -> llama_cpp.llama_model_params:
        settings = defaults()
        settings.use_extra_bufts = False
        return settings

    llama_cpp.llama_cpp.llama_model_default_params = plain


def choice(model: llama_cpp.Llama, seen: set[int], penalty: float) -> int:
    """The likeliest token after the last one."""
    logits = np.ctypeslib.as_array(llama_cpp.llama_get_logits_ith(model.ctx, -1), shape=(model.n_vocab(),)).copy()
    if penalty != 1.0:
        known = list(seen)
        logits[known] = np.where(logits[known] > 0, logits[known] / penalty, logits[known] * penalty)
    return int(logits.argmax())


def layers_on_device(job: Job) -> int:
    """As many as the budget holds, by the share of the file."""
    if job.device == "cpu":
        return 0
    whole = Path(job.model).stat().st_size
    return int(job.options["layers"] * min(1.0, (job.budget or whole) / whole))


def quantize(source: str, target: str) -> int:
    """Write `target`, Q4_K_M, from `source`; what went wrong is in llama.cpp's own words above."""
    settings = llama_cpp.llama_model_quantize_default_params()
    settings.ftype = llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_K_M
    return int(llama_cpp.llama_model_quantize(source.encode(), target.encode(), settings))


if __name__ == "__main__":
    sys.exit(main())
