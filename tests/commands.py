"""Commands as tests run them: to their exit code, and with questions to ask."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest


def exit_code(call: Callable[..., object], *arguments: object) -> int:
    """Of what ends as a program does."""
    with pytest.raises(SystemExit) as ended:
        call(*arguments)
    assert isinstance(ended.value.code, int)
    return ended.value.code


def write_questions(data: Path, *conversations: Sequence[str]) -> Path:
    """MT-Bench's own file in the folder `data`, which is returned: the turns of each conversation."""
    path = data / "mt-bench" / "question.jsonl"
    path.parent.mkdir(parents=True)
    rows = [{"question_id": n, "category": "words", "turns": turns} for n, turns in enumerate(conversations, 1)]
    path.write_text("\n".join(map(json.dumps, rows)))
    return data
