"""Tables say what was measured, how an answer ended, and how far the plan was from the truth."""

from __future__ import annotations

import io
import re
from typing import Any

import pytest
from rich.console import Console
from rich.table import Table

from specdecodes.cli.report import metrics_table, one_line, plan_table, prediction_table
from specdecodes.config import Pipeline, Target
from specdecodes.offload.planning.plan import Budgets, Placement
from specdecodes.offload.planning.predict import Prediction
from specdecodes.stats import Generation, Round


def generation(**changes: Any) -> Generation:
    rounds = (
        Round((1, 2, 3), 8, 2, (4, 4), 2, {"draft": 0.2, "target": 0.3, "wait": 0.1, "overhead": 0.0}, 10**6),
        Round((4,), 8, 0, (4, 4), 2, {"draft": 0.2, "target": 0.3, "wait": 0.1, "overhead": 0.0}, 10**6),
    )
    fields: dict[str, Any] = {
        "text": "text",
        "tokens": (0, 1, 2, 3, 4),
        "prompt_tokens": 9,
        "cached_tokens": 0,
        "rounds": rounds,
        "prefill_seconds": {"target": 0.5},
        "total_seconds": 2.0,
        "time_to_first_token_s": 0.5,
        "prefill_bytes": 0,
        "finish_reason": "length",
    }
    return Generation(**fields | changes)


def cells(table: Table) -> dict[str, str]:
    screen = io.StringIO()
    Console(file=screen, width=200).print(table)
    lines = [re.split(r" {2,}", line.strip()) for line in screen.getvalue().splitlines()]
    return {line[0].strip(): " ".join(cell.strip() for cell in line[1:]) for line in lines}


def test_an_answer_s_figures():
    shown = cells(metrics_table([generation(cached_tokens=3)], "this answer"))
    assert shown["new tokens"] == "5 ended by --max-tokens"
    assert shown["prompt tokens"] == "9 3 of them kept in the cache from before"
    assert shown["tokens/s"].startswith("2.50 ")
    assert shown["tau"].startswith("1.00 ")
    assert shown["accepted at depth"].endswith("1, 2, ...: 50% 50%")


def test_depths_that_are_never_accepted_are_said_once():
    deep = Round((1,), 8, 1, (4, 4, 4, 4), 4, {"draft": 0.2, "target": 0.3, "wait": 0.1, "overhead": 0.0}, 10**6)
    shown = cells(metrics_table([generation(rounds=(deep,))], "this answer"))
    assert shown["accepted at depth"].endswith("1, 2, ...: 100% then none")


def test_endings_of_several_answers_are_counted():
    answers = [generation(), generation(), generation(finish_reason="stop")]
    assert cells(metrics_table(answers, "all"))["new tokens"] == "15 ended by --max-tokens (2), the model's own end"


@pytest.mark.parametrize(
    ("reason", "words"), [("context", "context is full"), ("length", "--max-tokens"), ("stop", "")]
)
def test_one_line_says_why_an_answer_is_short(reason: str, words: str):
    assert one_line(generation(finish_reason=reason)).startswith("5 tokens, 2.50 tokens/s, 2.0 a round")
    assert one_line(generation(finish_reason=reason)).endswith(words)


def test_the_plan_is_held_against_the_measurement():
    predicted = Prediction(2.0, 0.1, 2, 0.5, 0.1, 0.7, 3.0, 4.0, 6.0)
    placement = Placement((), (0,), (), (0,), 2, {}, {}, 1, predicted, "RAM", Budgets(), "")
    shown = cells(prediction_table({"link_gbps": 1.0, "draft_step_s": 0.05, "tokens_per_round": 3.0}, placement))
    assert (shown["link, GB/s"], shown["draft step, ms"]) == ("2 1 0.50", "100 50 0.50")
    assert shown["tokens/round"] == "3 3 1.00 +0%" and "decode tokens/s" not in shown


def test_a_plan_is_read_in_a_narrow_window_too() -> None:
    """And a folder's brackets are no style."""

    class Planned:
        def rows(self) -> list[tuple[str, str, str]]:
            speed = "93 to 336 tokens/s, most likely 202"
            return [("ring of 2 slots", "RAM", "4.23 MiB"), ("predicted speed", "13 tokens a round", speed)]

    out = io.StringIO()
    table = plan_table(Planned(), Pipeline("subspec_sd", Target("my[red]model")))  # type: ignore[arg-type]
    Console(file=out, width=40).print(table)
    text = out.getvalue()
    assert "my[red]model" in text.replace("\n", "") and "most likely 202" in text
    assert "RAM" in text and "tokens a" in text, "words are not broken into letters"
