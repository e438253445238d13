"""How long a chain is offered, by arithmetic: a clock that only moves when told to."""

from __future__ import annotations

import pytest

from specdecodes.config import Tree
from specdecodes.drafters.pacing.stride import Stride


class Play:
    """Rounds as they would go: the target takes a token with chance `share` (on average), a round of the middle model
    takes `ahead` seconds and yields `tokens`, a pass of the target takes `behind`."""

    def __init__(self, clock, *, least=4, adaptive=True, depth=40, nodes=64, ahead=0.1, tokens=3, passes=None):
        self.clock, self.ahead, self.tokens, self.passes = clock, ahead, tokens, passes or {nodes: 1.0}
        self.stride = Stride(Tree(1, depth, nodes, adaptive), least, ahead, tokens, self.passes)
        self.offered, self.seconds, self.emitted = [], 0.0, 0.0

    def turn(self, share):
        stride, length, started = self.stride, 0, self.clock.now
        stride.start()
        if stride.drafts:
            while stride.more(length):
                self.clock.now += self.ahead
                stride.ran(self.ahead, self.tokens)
                length += self.tokens
            length = min(length, stride.most)
            stride.offer()
        self.clock.now += self.passes[stride.rows(length + 1)]
        accepted = sum(share**k for k in range(1, length + 1))
        stride.learn(length, round(accepted))
        self.offered.append(length)
        self.seconds += self.clock.now - started
        self.emitted += 1 + accepted

    def play(self, count, share):
        for _ in range(count):
            self.turn(share)
        return self.emitted / self.seconds


@pytest.mark.parametrize(("least", "wanted"), [(1, 3), (4, 6), (9, 9), (99, 20)])
def test_at_least_so_many_tokens_and_no_more_than_fit(clock, least, wanted):
    play = Play(clock, least=least, adaptive=False, depth=20, nodes=32)
    play.play(5, 0.5)
    assert set(play.offered) == {wanted}
    assert Play(clock, least=99, adaptive=False, depth=99, nodes=8).stride.most == 7


@pytest.mark.parametrize(("share", "ahead"), [(0.5, 0.3), (0.8, 0.1), (0.95, 0.1), (0.95, 0.02)])
def test_settles_near_the_best_length(clock, share, ahead):
    adaptive = Play(clock, least=1, ahead=ahead)
    adaptive.play(40, share)
    adaptive.seconds = adaptive.emitted = 0.0
    found = adaptive.play(40, share)
    fixed = [Play(clock, least=least, adaptive=False, ahead=ahead).play(5, share) for least in range(1, 40, 3)]
    assert found >= 0.9 * max(fixed)


def test_a_target_that_agrees_is_offered_more(clock):
    agrees, differs = Play(clock), Play(clock)
    agrees.play(30, 0.98)
    differs.play(30, 0.3)
    assert agrees.offered[-1] >= 3 * differs.offered[-1] > 0
    assert agrees.stride.acceptance > 0.9 > 0.5 > differs.stride.acceptance


def test_the_smallest_pass_that_holds_the_chain(clock):
    stride = Play(clock, passes={1: 0.1, 8: 0.2, 64: 1.0}).stride
    assert [stride.rows(nodes) for nodes in (1, 2, 8, 9)] == [1, 8, 8, 64]


def test_plain_rounds_where_the_middle_model_costs_more_than_it_brings(clock):
    play = Play(clock, ahead=2.0, passes={1: 0.5, 64: 1.0})
    play.play(200, 0.2)
    assert play.offered[:4] == [6, 6, 6, 6], "four rounds to see it"
    assert set(play.offered[4:12]) == {0}
    assert play.offered[100:].count(0) > 90
    play.ahead = 0.01
    play.play(600, 0.95)
    assert 0 not in play.offered[-20:]


def test_plain_rounds_are_timed_again_and_rests_begin_when_they_got_faster(clock):
    play = Play(clock, ahead=0.6, passes={1: 1.0, 64: 1.1})
    play.play(200, 0.7)
    assert 2 * 3 <= play.offered.count(0) <= 200 * 3 // 32 + 3, "three plain rounds in every 32 or so, and no rest"
    play.passes = {1: 0.2, 64: 1.1}
    play.play(60, 0.7)
    assert play.offered[-20:].count(0) > 15


def test_no_plain_rounds_are_timed_where_drafting_is_far_ahead(clock):
    """Nor once: they would have to be much faster than is expected of them."""
    play = Play(clock, ahead=0.01, passes={1: 1.0, 64: 1.1})
    play.play(200, 0.95)
    assert 0 not in play.offered


def test_no_plain_rounds_are_asked_for_where_all_passes_are_alike(clock):
    play = Play(clock, ahead=0.3)
    play.play(100, 0.5)
    assert 0 not in play.offered
