"""What the text suggests about its own continuation."""

from __future__ import annotations

import pytest
import torch

from specdecodes.config import Tree
from specdecodes.drafters.ngram import LONGEST, NgramDrafter, continuations
from specdecodes.drafters.pacing.pace import Pace
from specdecodes.drafters.pacing.seconds import Costs
from tests.drafters.test_graft import paths_of


def proposed(text: list[int], capacity: int = 16, depth: int = 4) -> list[tuple[int, ...]]:
    """The paths below the root."""
    drafter = NgramDrafter(capacity, depth, torch.device("cpu"))
    drafter.begin(torch.tensor(text[:-1]), 0, None, None)
    return [path[1:] for path in paths_of(drafter.propose(text[-1]))[1:]]


def pace_of(passes: dict[int, float]) -> Pace:
    return Pace(Tree(1, 4, max(passes)), Costs({1: 1e-6}, passes))


def test_a_new_token_has_no_precedent():
    assert proposed([1, 2, 3, 4]) == []
    assert proposed([1]) == []
    for pace, capacity in ((None, 16), (pace_of({1: 1.0, 16: 1.0}), 1)):
        drafter = NgramDrafter(16, 4, torch.device("cpu"), pace)
        drafter.begin(torch.tensor([1, 2, 3]), 0, None, None)
        assert drafter.propose(4).capacity == capacity, "exact mode has passes of one width"


def test_the_longest_agreement_comes_first():
    paths = proposed([1, 2, 3, 50, 51, 9, 3, 60, 61, 7, 1, 2, 3], capacity=3, depth=2)
    assert paths == [(50,), (50, 51)]


def test_several_continuations_make_a_tree():
    text = [1, 2, 30, 31, 1, 2, 30, 40, 1, 2, 50, 51, 1, 2]
    assert set(proposed(text, depth=2)) == {(30,), (50,), (30, 31), (30, 40), (50, 51)}
    assert proposed(text, capacity=2) == [(30,)], "said twice"
    assert len(proposed(text, capacity=4)) == 3


def test_of_equals_the_latest_is_kept(monkeypatch):
    monkeypatch.setattr("specdecodes.drafters.ngram.CANDIDATES", 1)
    assert proposed([1, 2, 30, 1, 2, 40, 1, 2], depth=1) == [(40,)]


def test_a_loop_goes_on_past_the_end_of_the_text():
    assert proposed([5, 6, 7, 5, 6, 7, 5], depth=5)[-1] == (6, 7, 5, 6, 7)


def test_a_suffix_is_matched_as_plain_python_would():
    rng = torch.Generator().manual_seed(0)
    for _ in range(50):
        text = torch.randint(0, 3, (int(torch.randint(2, 40, (1,), generator=rng)),), generator=rng)
        found, words = continuations(text, 1), text.tolist()
        lengths = {}
        for place in range(len(words) - 1):
            same = 0
            while same <= min(place, LONGEST - 1) and words[place - same] == words[-1 - same]:
                same += 1
            if same:
                lengths[place] = same
        if not lengths:
            assert found is None
            continue
        best = max(lengths, key=lambda place: (lengths[place], place))
        assert found.tokens[0].tolist() == [words[-1], words[best + 1]]
        share = found.reach[:, 1] / found.reach[:, 0]
        assert float(share[0]) == pytest.approx(lengths[best] / (lengths[best] + 1))


def test_the_answer_is_looked_up_too_and_a_new_request_forgets_it():
    from specdecodes.verify import Verdict

    drafter = NgramDrafter(4, 3, torch.device("cpu"))
    drafter.begin(torch.tensor([8, 1]), 0, None, None)
    tree = drafter.propose(2)
    drafter.accept(tree, Verdict((0, 1, 2), (3, 4, 1)), None)
    assert paths_of(drafter.propose(1))[1:] == [(1, 2), (1, 2, 3), (1, 2, 3, 4)]
    drafter.begin(torch.tensor([8, 2]), 0, None, None)
    assert paths_of(drafter.propose(1)) == [(1,)]


def test_as_much_is_verified_as_pays():
    """A likely tree is worth a wide pass that costs little more, and not one that costs four times as much."""
    for wide, capacity in ((25.1, 16), (100.0, 4)):
        drafter = NgramDrafter(16, 4, torch.device("cpu"), pace_of({1: 24.0, 4: 25.0, 16: wide}))
        drafter.begin(torch.tensor([5, 6, 7, 8, 9, 7, 8, 5, 6]), 0, None, None)
        assert drafter.propose(7).capacity == capacity
