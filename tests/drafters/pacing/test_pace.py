"""How much is drafted, by arithmetic: a clock that only moves when told to."""

from __future__ import annotations

import statistics

import pytest

from specdecodes.config import Tree
from specdecodes.drafters.pacing.pace import Pace
from specdecodes.drafters.pacing.recess import PATIENCE
from specdecodes.drafters.pacing.seconds import Costs, Seconds
from tests.drafters.pacing.simulated import Regime


class World:
    """Rounds as they would go: `reach(k)` is the truth and what the draft says, `passes` the seconds of a pass by rows
    and `level` those of a level by width; `line` are the chances that a chain had in place of a wide round."""

    def __init__(self, clock, *, depth=64, width=1, nodes=8, adaptive=True, wrong=1.0, levels=None, passes=None):
        self.clock, self.level, self.passes = clock, levels or {width: 0.05}, passes or {nodes: 1.0}
        costs = Costs({w: s * wrong for w, s in self.level.items()}, {r: s * wrong for r, s in self.passes.items()})
        self.pace = Pace(Tree(width, depth, nodes, adaptive), costs)
        self.rounds = []

    def turn(self, reach, chances=(), line=(), luck=None):
        pace, levels, width = self.pace, 0, None
        pace.start()
        started = self.clock.now
        if pace.drafts:
            width, more = pace.ready(), True
            while more:
                levels += 1
                self.clock.now += self.level[width]
                more = pace.more(reach(levels))
            rows = pace.verify(chances(levels) if callable(chances) else chances, line[:levels])
        else:
            rows = pace.plain()
        self.clock.now += self.passes[rows]
        seen = min(levels, rows - 1) if callable(chances) else levels  # of a chain's nodes, those that were verified
        # By default, level k is reached in a share reach(k) of all rounds.
        luck = len(self.rounds) * 0.618034 % 1.0 if luck is None else luck
        pace.learn(sum(reach(k) > luck for k in range(1, seen + 1)))
        self.rounds.append((levels, width, rows, self.clock.now - started))
        return levels > 0

    def play(self, count, *arguments, **options):
        for _ in range(count):
            self.turn(*arguments, **options)
        return self.rounds[-1]


def rate(depth, reach, rest, level):
    return (1 + sum(reach(k) for k in range(1, depth + 1))) / (rest + depth * level)


def mean_rate(rounds, reach, rest, level):
    tokens = sum(1 + sum(reach(k) for k in range(1, levels + 1)) for levels, *_ in rounds)
    return tokens / sum(rest + levels * level for levels, *_ in rounds)


@pytest.mark.parametrize("wrong", [1.0, 0.1, 10.0])
@pytest.mark.parametrize("acceptance", [0.5, 0.8, 0.9, 0.97])
@pytest.mark.parametrize(("rest", "level"), [(2.0, 0.05), (0.2, 0.05), (0.05, 0.01)])
def test_settles_near_the_best_depth_however_wrong_the_plan(clock, acceptance, rest, level, wrong):
    def reach(k):
        return acceptance**k

    world = World(clock, levels={1: level}, passes={8: rest}, wrong=wrong)
    world.play(120, reach)
    best = max(rate(depth, reach, rest, level) for depth in range(1, 65))
    assert mean_rate(world.rounds[-90:], reach, rest, level) >= 0.97 * best


def test_fixed_depth_is_fixed(clock):
    world = World(clock, depth=7, adaptive=False, levels={1: 1.0}, passes={8: 0.1})
    world.play(40, lambda k: 1e-6)
    assert {levels for levels, *_ in world.rounds} == {7}


def test_never_deeper_than_the_tree(clock):
    assert World(clock, depth=9, levels={1: 0.001}, passes={8: 100.0}).play(30, lambda k: 1.0)[0] == 9


LADDER = {1: 0.044, 2: 0.045, 4: 0.047, 8: 0.05, 16: 0.083, 32: 0.19, 64: 0.35}  # computed: what rows cost
FLAT = {1: 0.44, 64: 0.45}  # streamed: rows cost nothing
RESIDENT, STREAMED = {1: 0.017, 4: 0.022}, {1: 0.025, 4: 0.03}
SURE, SPREAD, DOUBTS = (0.5, 0.9, 0.9, 0.99, 0.99, 0.99), (0.3, 0.5, 0.7), (0.4, 0.6, 0.8, 0.9)
REGIMES = {
    "computed": Regime(RESIDENT, LADDER, SURE),
    "computed, takes what is doubted": Regime(RESIDENT, LADDER, DOUBTS, lambda said: said**0.4),
    "computed, refuses what is sure": Regime(RESIDENT, LADDER, SURE, lambda said: said**3),
    "streamed": Regime(STREAMED, FLAT, SURE, exact=True),
    "streamed, many ways to go on": Regime(STREAMED, FLAT, SPREAD, exact=True),
    "streamed, takes what is doubted": Regime(STREAMED, FLAT, DOUBTS, lambda said: said**0.4, exact=True),
    "a draft as dear as the target": Regime({1: 0.06, 4: 0.065}, LADDER, SPREAD),
    "rows that cost little": Regime({1: 0.004, 4: 0.0042}, {rows: 0.02 + rows * 2e-5 for rows in LADDER}, SPREAD),
}
FIXED = ((1, 3, 4), (4, 4, 16), (4, 4, 64), (4, 8, 64), (4, 12, 64))  # width, depth, nodes


@pytest.mark.parametrize("name", REGIMES)
def test_within_three_percent_of_the_best_fixed_setting(clock, name):
    """Plain decoding included, and whatever the plan expected."""
    regime = REGIMES[name]
    settings = (Tree(*sizes, adaptive=False) for sizes in FIXED if sizes[2] in regime.passes)
    best = max(1 / regime.passes[1], *(regime.play(clock, 120, tree, warm=40) for tree in settings))
    assert regime.play(clock, 120, Tree(4, 16, 64), warm=40, wrong=2.0) >= 0.97 * best


FAR = {1: 1.45, 8: 1.46, 64: 1.55}  # streamed from a disk: a plain round is as dear as one that brings ten tokens
FIRST = {
    "right": Regime({1: 0.043, 4: 0.045}, FAR, SURE),
    "takes what is doubted": Regime({1: 0.043, 4: 0.045}, FAR, DOUBTS, lambda said: said**0.4),
    "refuses what is sure": Regime({1: 0.043, 4: 0.045}, FAR, SURE, lambda said: said**3),
    "many ways to go on": Regime({1: 0.043, 4: 0.045}, FAR, SPREAD),
    "hardly ever right": Regime({1: 0.043, 4: 0.045}, FAR, (0.1, 0.3)),
    "computed": REGIMES["computed"],
}


@pytest.mark.parametrize("name", FIRST)
def test_the_first_rounds_are_not_spent_on_finding_out(clock, name):
    """The first eight of a process, over three texts, against the best fixed setting of them."""
    regime, starts = FIRST[name], (0, 100, 200)

    def speed(tree, **options):
        return statistics.harmonic_mean([regime.play(clock, 8, tree, first=first, **options) for first in starts])

    best = max(1 / regime.passes[1], *(speed(Tree(*sizes, adaptive=False)) for sizes in FIXED if sizes[2] in FAR))
    assert speed(Tree(4, 32, 64), wrong=2.0) >= 0.8 * best


def test_plain_rounds_are_not_timed_where_they_could_not_be_as_fast(clock):
    """Until drafting is no longer far ahead of them."""
    world = World(clock, levels={1: 0.02}, passes={1: 1.0, 8: 1.05})
    world.play(100, lambda k: 0.9**k)
    assert all(levels for levels, *_ in world.rounds)
    world.play(40, lambda k: 0.2**k)
    assert [levels > 0 for levels, *_ in world.rounds].count(False) >= 3


def test_a_draft_that_never_helps_is_given_up_and_tried_again(clock):
    """At most one round in PATIENCE[1] is spent on it, so that it costs little against plain decoding."""
    world = World(clock, levels={1: 0.5}, passes={8: 1.0, 1: 1.0})
    world.play(400, lambda k: 0.9**k, luck=1.0)
    late = [levels > 0 for levels, *_ in world.rounds[200:]]
    assert 1 <= sum(late) <= 1 + 200 // PATIENCE[1]
    seconds = sum(seconds for *_, seconds in world.rounds[200:])
    assert seconds <= 1.03 * 200 * world.passes[1]


def test_a_draft_that_helps_again_is_taken_up_again(clock):
    world = World(clock, levels={1: 0.05}, passes={8: 1.0, 1: 1.0})
    world.play(60, lambda k: 0.9**k, luck=1.0)
    assert world.rounds[-1][0] == 0 or world.rounds[-2][0] == 0
    world.play(600, lambda k: 0.9**k)
    assert all(levels for levels, *_ in world.rounds[-20:])


def test_plain_rounds_that_were_timed_on_a_slow_moment_are_not_believed_for_long(clock):
    world = World(clock, levels={1: 0.3}, passes={8: 1.05, 1: 1.0})
    world.play(100, lambda k: 0.9**k, luck=1.0)
    assert world.pace.rests
    world.passes = {8: 4.2, 1: 4.0}
    for _ in range(2 * PATIENCE[1]):
        if world.turn(lambda k: 1.0) and not world.pace.rests:
            break
    assert not world.pace.rests
    world.passes = {8: 1.05, 1: 1.0}
    world.play(60, lambda k: 0.2**k)
    assert world.pace.rests


def test_as_many_nodes_are_verified_as_pay(clock):
    """Of 64 rows that cost what they compute, a draft whose first nodes hold nearly all chances asks for few."""
    passes = {1: 0.2, 4: 0.23, 16: 0.35, 64: 0.8}
    sure = World(clock, width=4, nodes=64, levels={4: 0.02}, passes=passes)
    sure.play(20, lambda k: 0.7**k, chances=[0.7, 0.49, 0.34] + [0.001] * 60)
    assert sure.rounds[-1][2] == 4
    flat = World(clock, width=4, nodes=64, levels={4: 0.001}, passes=passes)
    flat.play(20, lambda k: 0.99**k, chances=lambda n: [0.99**k for k in range(1, n + 1)])
    assert flat.rounds[-1][2] == 64


def test_a_chain_where_it_would_do_as_well(clock):
    levels = {1: 0.03, 4: 0.05}
    first = World(clock, width=4, nodes=64, levels=levels, passes={64: 1.0})
    line = [[0.9**k] for k in range(1, 65)]
    first.play(40, lambda k: 0.9**k, chances=lambda n: [chance for (chance,) in line[:n]], line=line)
    assert [width for _, width, *_ in first.rounds[-20:]].count(1) >= 18
    spread = World(clock, width=4, nodes=64, levels=levels, passes={64: 1.0})
    poor = [[0.6**k] for k in range(1, 65)]
    spread.play(40, lambda k: 0.9**k, chances=lambda n: [chance for (chance,) in line[:n]], line=poor)
    assert [width for _, width, *_ in spread.rounds] == [*[4] * 8, 1, *[4] * 31], "each is tried once"


def test_a_chain_ends_where_one_row_more_would_make_the_pass_longer(clock):
    """Unless it is so promising that several more pay for that."""
    options = {"width": 1, "depth": 15, "nodes": 16, "levels": {1: 0.01}}
    steep = World(clock, passes={1: 0.05, 8: 0.06, 16: 0.12}, **options)
    steep.play(60, lambda k: 0.93**k, chances=lambda n: [0.93**k for k in range(1, n + 1)])
    assert {levels for levels, *_ in steep.rounds[-20:]} == {7}
    flat = World(clock, passes={1: 0.05, 8: 0.06, 16: 0.062}, **options)
    flat.play(60, lambda k: 0.99**k, chances=lambda n: [0.99**k for k in range(1, n + 1)])
    assert {levels for levels, *_ in flat.rounds[-20:]} == {15}


def test_seconds_scale_what_was_not_measured_by_what_was():
    seconds = Seconds({1: 1.0, 4: 2.0})
    assert seconds.of(4) == 2.0
    seconds.add(1, 50.0)  # it compiled
    assert seconds.of(1) == 1.0
    seconds.add(1, 3.0)
    assert (seconds.of(1), seconds.of(4)) == (3.0, 6.0)
    seconds.add(4, 9.0)
    seconds.add(4, 5.0)
    assert seconds.of(4) == 5.0


def test_a_promising_round_goes_deeper_than_a_poor_one(clock):
    """Of rounds that take turns, each is drafted as deep as its own draft says."""
    world = World(clock, levels={1: 0.05}, passes={8: 1.0})
    for _ in range(40):
        world.turn(lambda k: 0.5**k)
        world.turn(lambda k: 0.95**k)
    poor, good = world.rounds[-2][0], world.rounds[-1][0]
    assert poor <= 5 and good >= 2 * poor


def test_a_free_draft_that_fails_costs_little(clock):
    """Of n-gram trees that are never right, two rows are verified once in a while, and else none."""
    passes = {1: 0.2, 2: 0.21, 8: 0.4}
    world = World(clock, nodes=8, levels={1: 0.0}, passes=passes)
    world.pace = Pace(Tree(1, 4, 8), Costs({1: 1e-6}, passes))
    for _ in range(300):
        world.pace.start()
        world.pace.ready()
        for depth in range(1, 5):
            world.pace.more(0.8**depth)
        rows = world.pace.verify([0.8**depth for depth in range(1, 5)]) if world.pace.drafts else 1
        world.clock.now += passes[rows]
        world.pace.learn(0)
        world.rounds.append(rows)
    assert sum(passes[rows] for rows in world.rounds[100:]) <= 1.03 * 200 * passes[1]
