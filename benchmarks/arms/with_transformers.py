"""An arm of `benchmarks/peers.py`: Transformers' generate, what does not fit offloaded by accelerate.

Options: `offload` (`disk`, `cpu`, or nothing: resident) and `draft` (`lookup`, `assistant`, or nothing).
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # a clone that is not installed

import torch
from transformers import AutoModelForCausalLM
from transformers.generation import BaseStreamer

from benchmarks.arms.job import Answer, Job

LOOKUP_TOKENS = 10  # Transformers' own example of prompt lookup


class Clock(BaseStreamer):
    """Notes when tokens come."""

    def __init__(self) -> None:
        self.answer = Answer()
        self._prompt = True

    def put(self, value: torch.Tensor) -> None:
        if not self._prompt:  # the prompt comes first
            self.answer.add(value.flatten().tolist())
        self._prompt = False

    def end(self) -> None:
        pass


def main() -> None:
    job = Job.read()
    torch.set_num_threads(job.threads)
    model = load(job)
    drafting = drafting_options(job)
    for prompt, tokens, counts in job.requests():
        clock, ids = Clock(), torch.tensor([prompt], device=job.device)
        model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=tokens,
            repetition_penalty=job.penalty,
            streamer=clock,
            **drafting,
        )
        if counts:
            clock.answer.tell()


def load(job: Job) -> Any:
    """The target, placed by accelerate within the budget."""
    places: dict[str, Any] = {}
    if job.options.get("offload"):
        budget: dict[int | str, Any] = {"cpu": job.budget} if job.device == "cpu" else {0: job.budget}
        if job.options["offload"] == "cpu":
            budget["cpu"] = "1000GiB"
        elif job.device != "cpu":
            budget["cpu"] = 0
        places = {"device_map": "auto", "max_memory": budget, "offload_folder": job.scratch}
    model = AutoModelForCausalLM.from_pretrained(job.model, dtype="auto", **places)
    return without_end(model if places else model.to(job.device))


def drafting_options(job: Job) -> dict[str, Any]:
    draft = job.options.get("draft")
    if draft == "lookup":
        return {"prompt_lookup_num_tokens": LOOKUP_TOKENS}
    if draft == "assistant":
        assistant = AutoModelForCausalLM.from_pretrained(job.draft_model, dtype="auto").to(job.device)
        return {"assistant_model": without_end(assistant)}
    return {}


def without_end(model: Any) -> Any:
    """`model`, answering on past end tokens, as all arms do."""
    model.generation_config.eos_token_id = None
    model.generation_config.pad_token_id = 0
    return model


if __name__ == "__main__":
    with torch.no_grad():
        main()
