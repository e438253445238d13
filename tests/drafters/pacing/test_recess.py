"""Rests and trials, by arithmetic: a clock that only moves when told to."""

from __future__ import annotations

import pytest

from specdecodes.config import Tree
from specdecodes.drafters.pacing.pace import Pace
from specdecodes.drafters.pacing.recess import CREDIT, ENOUGH, SAVED, Recess
from specdecodes.drafters.pacing.seconds import Costs

PLAIN = 1.0  # seconds of a plain round


class Requests:
    """Answers drafted by a model that is never right: a level of it takes `level` seconds, a row that it missed
    `row`."""

    def __init__(self, clock, *, level, row):
        self.clock, self.level, self.row = clock, level, row
        self.pace = Pace(Tree(1, 8, 8), Costs({1: level}, {1: PLAIN, 8: PLAIN}))
        self.missed = self.trials = 0
        self.lost = 0.0  # seconds beyond those of plain decoding, since the first rest

    def ask(self, prompt, tokens):
        self.missed = prompt
        for _ in range(tokens):
            self.turn()

    def turn(self):
        pace, started, rested = self.pace, self.clock.now, self.pace.rests
        pace.start(self.missed)
        if pace.drafts:
            self.clock.now += self.missed * self.row
            pace.ready()
            self.trials, self.missed, more = self.trials + rested, 0, True
            while more:
                self.clock.now += self.level
                more = pace.more(0.5)
            pace.verify([0.5])
        else:
            pace.plain()
        self.clock.now += PLAIN
        pace.learn(0)
        self.missed += 1
        if rested:
            self.lost += self.clock.now - started - PLAIN


@pytest.mark.parametrize("prompt", [8, 1500])
@pytest.mark.parametrize(("level", "row"), [(0.05, 0.001), (0.5, 0.01), (4.0, 0.1)])
def test_trials_take_one_percent_however_many_requests(clock, level, row, prompt):
    """And what the last one is in debt; a dear draft is tried seldom, and still tried."""
    requests = Requests(clock, level=level, row=row)
    for _ in range(60):
        requests.ask(prompt, 200)
    assert requests.pace.rests
    assert 0 < requests.lost <= SAVED * clock.now + level + CREDIT * row
    assert requests.trials >= 60 * 200 * SAVED * PLAIN / (level + PLAIN + (prompt + 200) * row) / 4


def test_a_rest_outlasts_its_request_and_a_long_prompt_is_not_run_for_nothing(clock):
    """Short answers to long prompts: the draft would take longer to read one than all that was saved."""
    requests = Requests(clock, level=0.5, row=0.01)
    requests.ask(2000, 12)  # the first is read before anything is known
    assert requests.pace.rests
    tried = requests.trials
    requests.ask(2000, 90)
    assert requests.trials == tried and requests.missed == 2090
    requests.ask(8, 60)
    assert requests.trials > tried, "a short one costs little"


def test_a_draft_that_is_not_in_doubt_reads_any_prompt():
    recess = Recess(1.0)
    assert recess.over(10**9) and not recess.rests
    for _ in range(ENOUGH):
        recess.judge(-1.0, PLAIN)
    assert recess.rests and not recess.over(0)


def test_a_trial_that_is_ahead_ends_the_rest():
    recess = Recess(0.0)
    for _ in range(ENOUGH):
        recess.judge(-1.0, PLAIN)
    while not recess.over(5):
        recess.rested(PLAIN)
    for _ in range(ENOUGH):
        recess.judge(0.5, PLAIN)
        assert not recess.rests and recess.over(CREDIT)
    recess.judge(-3.0, PLAIN)
    assert not recess.rests, "bad luck, for all one knows"
