"""HierSpec's wiring: what is planned, drafted, counted and refused."""

from __future__ import annotations

from dataclasses import replace

import pytest

from specdecodes.config import Draft, Memory, Middle
from specdecodes.engine.runner import ModelRunner
from specdecodes.errors import BudgetError, ConfigError, NumericsError
from specdecodes.methods import build, plan_for
from specdecodes.stats import acceptance_per_level
from tests.test_lossless import GREEDY, PROMPTS, smallest_budget
from tests.test_lossless_hierspec import hierspec_for

pytestmark = pytest.mark.usefixtures("untimed")


def test_a_chain_has_the_length_that_is_asked_for(tiny_checkpoint):
    """At least so many tokens, and no more than the target's tree has room for; the rest is offered next."""
    folder = tiny_checkpoint("llama3")
    params = replace(GREEDY, max_tokens=40)
    for least, depth, wanted in ((5, 9, range(5, 10)), (8, 3, range(3, 4))):
        pipeline = hierspec_for("classic_sd", folder, folder, exact=False, least=least, depth=depth)
        with build(pipeline, progress=lambda text: None) as generator:
            rounds = generator.generate(PROMPTS[0], params).rounds
        assert all(round_.proposed in wanted for round_ in rounds)
    free = [round_ for round_ in rounds[1:] if round_.middles[0].rounds == 0]
    assert free and all(round_.accepted == 3 for round_ in free[:-1]), "chains from what was said before cost no pass"


def test_branches_from_the_text_go_onto_the_inner_draft(tiny_checkpoint):
    folder = tiny_checkpoint("llama3")
    pipeline = hierspec_for("share_sd", folder, folder, exact=True)
    pipeline = replace(pipeline, draft=replace(pipeline.draft, ngram=3))
    with build(pipeline, progress=lambda text: None) as generator:
        drafted = generator.generate(PROMPTS[0], GREEDY)
    assert all(max(round_.proposed_by_depth) == 1 for round_ in drafted.rounds), "the target sees chains"


def test_three_models_are_planned_and_one_byte_less_is_refused(tiny_checkpoint):
    folder = tiny_checkpoint("llama3")
    pipeline = hierspec_for("classic_sd", folder, folder, exact=True)
    parts = plan_for(pipeline).device_bytes
    alone = plan_for(replace(pipeline, method="vanilla")).device_bytes
    below = plan_for(replace(pipeline, method="classic_sd", tree=pipeline.middle.tree)).device_bytes
    assert parts["draft model"] == below["draft model"] and parts["embedding and head"] == alone["embedding and head"]
    assert parts["middle's 4 resident layers"] == alone["4 resident layers"]
    assert parts["middle's embedding and head"] == alone["embedding and head"]
    assert parts["middle's key-value cache"] > 0 and parts["draft's key-value cache"] > 0
    least = smallest_budget(pipeline)
    placement = plan_for(replace(pipeline, memory=Memory(least)))
    assert len(placement.streamed) == 4 and sum(placement.device_bytes.values()) <= least
    assert any(part == "middle's predicted speed" for part, _, _ in placement.rows())
    with pytest.raises(BudgetError, match="--device-memory") as refused:
        plan_for(replace(pipeline, memory=Memory(least - 1)))
    assert refused.value.shortfall_bytes == 1


def test_a_request_goes_on_after_a_middle_model_failed(tiny_checkpoint, monkeypatch):
    """NaN in the middle model is said by its name, and is gone with the next request."""
    folder = tiny_checkpoint("llama3")
    with build(hierspec_for("ngram_sd", folder, folder, exact=True), progress=lambda text: None) as generator:
        wanted = generator.generate(PROMPTS[0], GREEDY).tokens
        score, broken = ModelRunner.score, generator._drafter._middle

        def nonsense(runner, tree):
            scores = score(runner, tree)
            if runner is broken:
                runner.cache.keys.fill_(float("nan"))
                scores.logits.fill_(float("nan"))
            return scores

        monkeypatch.setattr(ModelRunner, "score", nonsense)
        with pytest.raises(NumericsError, match="the middle model's logits"):
            generator.generate(PROMPTS[0], GREEDY)
        monkeypatch.undo()
        assert generator.generate(PROMPTS[0], GREEDY).tokens == wanted


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"middle": Middle()}, "name it with --middle-model"),
        ({"middle": Middle("MODEL", method="hierspec_sd")}, "name it with --middle-model"),
        ({"middle": Middle("MODEL", method="egale_sd")}, "did you mean 'eagle_sd'"),
        ({"middle": Middle("MODEL", method="ngram_sd"), "draft": Draft(ngram=2)}, "ngram_sd has none"),
    ],
)
def test_what_cannot_be_is_refused(changes, words, tiny_checkpoint):
    folder = tiny_checkpoint("llama3")
    pipeline = hierspec_for("ngram_sd", folder, folder, exact=True)
    if (middle := changes["middle"]).model:
        changes = changes | {"middle": replace(middle, model=str(folder))}
    with pytest.raises(ConfigError, match=words):
        plan_for(replace(pipeline, **changes))


def test_a_middle_model_with_more_tokens_than_the_target_is_refused(tiny_checkpoint):
    larger = tiny_checkpoint("llama3", vocab_size=101)
    with pytest.raises(ConfigError, match="has 101 tokens and the target 97"):
        plan_for(hierspec_for("ngram_sd", tiny_checkpoint("llama3"), larger, exact=True))


def test_acceptance_is_counted_level_by_level(tiny_checkpoint):
    folder = tiny_checkpoint("llama3")
    with build(hierspec_for("classic_sd", folder, folder, levels=3, exact=True), progress=lambda text: None) as made:
        rounds = made.generate(PROMPTS[0], GREEDY).rounds
    target, middle, below = acceptance_per_level(rounds)
    assert [level["level"] for level in (target, middle, below)] == ["target", "middle", "middle's middle"]
    assert target["tokens"] == GREEDY.max_tokens - 1 == target["accepted"] + target["rounds"]
    assert middle["accepted"] + middle["rounds"] == middle["tokens"] >= target["accepted"]
    assert below["tokens"] >= middle["accepted"] > middle["rounds"], "the same weights: all is taken"
    assert below["accepted"] > below["rounds"]
