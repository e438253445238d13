"""A draft that rests does nothing, and goes on from where the text is by then."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from specdecodes.drafters.pacing.pace import Pace
from specdecodes.drafters.pacing.recess import Recess
from specdecodes.engine.runner import ModelRunner
from specdecodes.methods import build
from tests.test_lossless import GREEDY, PROMPTS, pipeline_for

ANSWER = replace(GREEDY, max_tokens=40)
Trees = dict[tuple[int, ...], tuple[list[int], list[int]]]


class Watched:
    """Answers with drafting at rest in the rounds that `rests` names, and what was run and proposed meanwhile."""

    def __init__(self, patch: pytest.MonkeyPatch, rests: Callable[[int], bool]) -> None:
        self.rounds = 0
        self.ran: list[int] = []  # the rounds in which the draft ran something
        self.trees: list[tuple[list[int], list[int]]] = []
        learn, follow, level = Pace.learn, ModelRunner.follow, ModelRunner.level

        def note(run):
            return lambda *given: self.ran.append(self.rounds) or run(*given)

        def count(pace, accepted):
            learn(pace, accepted)
            self.rounds += 1

        patch.setattr(Pace, "learn", count)
        patch.setattr(ModelRunner, "follow", note(follow))
        patch.setattr(ModelRunner, "level", note(level))
        patch.setattr(Pace, "rests", property(lambda pace: rests(self.rounds)))
        patch.setattr(Pace, "drafts", property(lambda pace: not rests(self.rounds)))

    def answer(self, pipeline) -> tuple[list, Trees]:
        """A prompt, and a second turn on the kept cache; every tree by the text in front of it."""
        with build(pipeline, progress=lambda text: None) as generator:
            propose = generator._drafter.propose

            def noted(root):
                tree = propose(root)
                self.trees.append((tree.tokens[: tree.size].tolist(), tree.parents[: tree.size].tolist()))
                return tree

            generator._drafter.propose = noted
            first = generator.generate(PROMPTS[1], ANSWER)
            again = (*PROMPTS[1], *first.tokens, 8, 9)
            second = generator.generate(again, ANSWER, reuse_cache=True)
        texts = []
        for prompt, generation in ((PROMPTS[1], first), (again, second)):
            text = (*prompt, generation.tokens[0])
            for round_ in generation.rounds:
                texts.append(text)
                text += round_.tokens
        return [first.tokens, second.tokens], dict(zip(texts, self.trees, strict=True))


@pytest.mark.parametrize("method", ["classic_sd", "eagle_sd"])
def test_it_proposes_what_it_would_have_proposed_without_a_rest(method, tiny_checkpoint):
    """Rested from the first token on, in the midst, and across the beginning of a request."""
    folder, draft = tiny_checkpoint("llama"), tiny_checkpoint("llama", seed=1)
    pipeline = pipeline_for(method, folder, draft, exact=True)

    def rests(number):
        return number < 5 or 12 <= number < 22 or 30 <= number < 48

    answers = []
    for rule in (lambda number: False, rests):
        with pytest.MonkeyPatch.context() as patch:
            watched = Watched(patch, rule)
            answers.append(watched.answer(pipeline))
    (wanted, always), (tokens, some) = answers
    assert tokens == wanted
    drafted = {text: tree for text, tree in some.items() if len(tree[0]) > 1}
    shared = drafted.keys() & always.keys()
    assert len(shared) > 12 and len(drafted) < len(some)
    assert all(drafted[text] == always[text] for text in shared)
    assert watched.ran and not any(rests(number) for number in watched.ran)


@pytest.mark.parametrize("method", ["classic_sd", "eagle_sd"])
def test_the_next_request_begins_with_what_the_last_one_showed(method, tiny_checkpoint):
    """Drafting that is told to be behind rests, and the next prompt is not run by the draft."""
    folder = tiny_checkpoint("llama")
    pipeline = pipeline_for(method, folder, tiny_checkpoint("llama", seed=1), exact=True)
    pipeline = replace(pipeline, tree=replace(pipeline.tree, adaptive=True))
    judge = Recess.judge
    with pytest.MonkeyPatch.context() as patch, build(pipeline, progress=lambda text: None) as generator:
        patch.setattr(Recess, "judge", lambda recess, ahead, plain: judge(recess, -1.0, plain))
        first = generator.generate(PROMPTS[1], replace(ANSWER, max_tokens=8))
        assert first.rounds[-1].levels == 0 < first.rounds[0].levels
        patch.setattr(ModelRunner, "follow", None)
        patch.setattr(ModelRunner, "level", None)
        second = generator.generate(PROMPTS[1], replace(ANSWER, max_tokens=5))
    assert second.tokens == first.tokens[:5]
    assert {round_.levels for round_ in second.rounds} == {0}
