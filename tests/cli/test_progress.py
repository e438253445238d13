"""Progress: a live line on a terminal, plain lines elsewhere, JSON for programs; results stay on their own stream."""

from __future__ import annotations

import io
import json

import pytest
from rich.console import Console

from specdecodes.benchmark.progress import Progress, spoken
from specdecodes.cli.progress import followed, working

ASKING = Progress("gsm8k", "asking", "17", "math", 3, 20, 1, 40, 12.5, 6.25, 95.0)
DONE = Progress("gsm8k", "done", "17", "math", 3, 20, 1, 80, 12.5, 6.25, 95.0)
FAILED = Progress("gsm8k", "failed", "18", "math", 4, 20, 1, 0, 0.0, 0.0, None, "StreamError: gone")


def follow(console: Console, as_json: bool = False) -> str:
    with followed(console, as_json=as_json) as watch:
        for seen in (ASKING, DONE, FAILED):
            watch(seen)
    return console.file.getvalue()


def test_a_terminal_shows_benchmark_sample_speed_tau_and_time_left():
    text = follow(Console(file=io.StringIO(), force_terminal=True, width=120))
    assert "gsm8k [3/20] math 17, turn 1: 40 tokens, 12.50 tokens/s, tau 6.25, about 2 min left" in text


def test_elsewhere_only_finished_samples_are_lines():
    assert follow(Console(file=io.StringIO(), width=40)).splitlines() == [
        "gsm8k [3/20] math 17: 80 tokens, 12.50 tokens/s, tau 6.25, about 2 min left",
        "gsm8k [4/20] math 18: FAILED, StreamError: gone",
    ]


def test_a_step_of_seconds_is_told_on_a_terminal_and_in_a_log():
    for console in (Console(file=io.StringIO(), force_terminal=True), Console(file=io.StringIO())):
        with working(console, "compiling"):
            pass
        assert "compiling" in console.file.getvalue()


def test_json_is_one_object_a_line_on_standard_output(capsys: pytest.CaptureFixture[str]):
    follow(Console(file=io.StringIO()), as_json=True)
    done, failed = map(json.loads, capsys.readouterr().out.splitlines())
    assert (done["type"], done["sample"], done["tokens_per_second"], done["seconds_left"]) == ("sample", "17", 12.5, 95)
    assert failed["error"] == "StreamError: gone"


@pytest.mark.parametrize(("seconds", "words"), [(5, "5 s"), (89, "89 s"), (95, "2 min"), (7200, "2.0 h")])
def test_durations_are_said_as_people_say_them(seconds: float, words: str):
    assert spoken(seconds) == words
