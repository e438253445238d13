"""The 80-prompt sets of the EAGLE evaluation, which papers on speculative decoding report: asked as they are."""

from __future__ import annotations

from specdecodes.benchmark.questions.sources import File, ToSample, question

NAME = "eagle_question.jsonl"
ROOT = "https://raw.githubusercontent.com/SafeAILab/EAGLE/cb7e0841fe0c206c6ed74a197ad5e2a1f13f5a2b/eagle/data"


def eagle(folder: str, to_sample: ToSample = question) -> File:
    """The set that EAGLE keeps in `folder`."""
    return File(NAME, f"{ROOT}/{folder}/question.jsonl", to_sample)
