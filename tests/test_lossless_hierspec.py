"""HierSpec: a middle model between draft and target, with every kind of draft, and another one below it.

The middle model's weights are nearly the target's, so that chains are taken in part, whole, and not at all.
"""

from __future__ import annotations

import shutil
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from specdecodes.config import Draft, Memory, Middle, Tree
from specdecodes.drafters.eagle import EagleDrafter
from specdecodes.drafters.pacing.stride import Stride
from specdecodes.engine.runner import ModelRunner
from specdecodes.methods import build, plan_for
from tests.heads import head_beside
from tests.test_lossless import (
    BRIEF,
    GREEDY,
    PROMPTS,
    answers,
    differing_bits,
    pipeline_for,
    plain_answers,
    smallest_budget,
)

INNER = ("ngram_sd", "classic_sd", "eagle_sd", "eagle3", "share_sd")
ROWS = [  # levels, streamed (and then exact), params: every pair of them
    (2, False, BRIEF[0]),
    (2, True, BRIEF[1]),
    (3, False, BRIEF[1]),
    (3, True, BRIEF[0]),
]
SMALL = Tree(width=3, depth=4, nodes=10, adaptive=False)
SHALLOW = replace(SMALL, depth=2)  # of a random head, which is right at no level

pytestmark = pytest.mark.usefixtures("untimed")


def hierspec_for(inner, target, middle, *, levels=2, exact, streamed=False, compiled=False, **settings):
    """`inner` drafts for `middle`; with three levels for a middle model of the same weights below it."""
    kind = "eagle_sd" if inner == "eagle3" else inner
    pipeline = pipeline_for("vanilla", target, None, exact=exact, compiled=compiled)
    draft = Draft(quant="hqq4:g32")
    if kind == "classic_sd":
        draft = Draft(str(target))
    if kind == "eagle_sd":
        draft = Draft(str(head_beside(middle, "eagle3" if inner == "eagle3" else "eagle")))
    tree = SHALLOW if kind == "eagle_sd" else SMALL
    section = Middle(str(middle), method=kind, tree=tree, min_draft_length=settings.pop("least", 4))
    if levels == 3:
        section = replace(section, method="hierspec_sd", middle=replace(section, min_draft_length=3))
    pipeline = replace(
        pipeline, method="hierspec_sd", draft=draft, middle=section, tree=replace(pipeline.tree, **settings)
    )
    return replace(pipeline, memory=Memory(smallest_budget(pipeline))) if streamed else pipeline


@pytest.fixture(scope="module")
def nearly(tiny_checkpoint, tmp_path_factory):
    """`nearly(family, dtype)`: a model that mostly says what the tiny checkpoint of that family says."""
    made = {}

    def make(family="llama3", dtype="fp32"):
        if (family, dtype) not in made:
            folder = tmp_path_factory.mktemp(f"nearly-{family}")
            shutil.copytree(tiny_checkpoint(family, dtype), folder, dirs_exist_ok=True)
            tensors = load_file(folder / "model.safetensors")
            generator = torch.Generator().manual_seed(5)
            for name, tensor in tensors.items():
                noise = 1 + 0.1 * torch.randn(tensor.shape, generator=generator)
                tensors[name] = (tensor * noise).to(tensor.dtype)
            save_file(tensors, folder / "model.safetensors", {"format": "pt"})
            made[family, dtype] = folder
        return made[family, dtype]

    return make


@pytest.fixture(scope="module")
def plain(tiny_checkpoint):
    return plain_answers(tiny_checkpoint, PROMPTS[1:])


@pytest.mark.parametrize(("levels", "streamed", "params"), ROWS, ids=lambda value: getattr(value, "seed", value))
@pytest.mark.parametrize("inner", INNER)
def test_tokens_equal_plain_decoding(inner, levels, streamed, params, tiny_checkpoint, nearly, plain):
    target = tiny_checkpoint("llama3")
    pipeline = hierspec_for(inner, target, nearly(), levels=levels, exact=streamed, streamed=streamed)
    tokens, logits = answers(pipeline, params, PROMPTS[1:])
    wanted, wanted_logits = plain("llama3", params, streamed)
    assert tokens == wanted
    if streamed:
        assert differing_bits(logits, wanted_logits) == 0


@pytest.mark.parametrize(
    ("inner", "levels", "streamed", "params"),
    [("classic_sd", *ROWS[1]), ("eagle_sd", *ROWS[2])],
    ids=lambda value: getattr(value, "seed", value),
)
def test_drafts_from_keys_and_values_in_8_bits(inner, levels, streamed, params, tiny_checkpoint, nearly, plain):
    """Those of every model below the target, and not the target's."""
    pipeline = hierspec_for(inner, tiny_checkpoint("llama3"), nearly(), levels=levels, exact=streamed)
    pipeline = replace(pipeline, draft=replace(pipeline.draft, kv="int8"))
    pipeline = replace(pipeline, memory=Memory(smallest_budget(pipeline))) if streamed else pipeline
    with build(pipeline, progress=lambda text: None) as generator:
        drafter = generator._drafter
        assert drafter._middle.cache.keys.dtype == torch.int8 and generator._target.cache.keys.dtype == torch.float32
    tokens, _ = answers(pipeline, params, PROMPTS[1:])
    assert tokens == plain("llama3", params, streamed)[0]


@pytest.mark.parametrize("params", BRIEF, ids=["greedy", "sampled"])
@pytest.mark.parametrize(("inner", "levels"), [("eagle_sd", 2), ("ngram_sd", 3)])
def test_exact_mode_is_bit_for_bit_in_half_precision(inner, levels, params, tiny_checkpoint, nearly, plain):
    """Of models whose attention has a limited reach."""
    target, middle = tiny_checkpoint("qwen2-sliding", "bf16"), nearly("qwen2-sliding", "bf16")
    pipeline = hierspec_for(inner, target, middle, levels=levels, exact=True, streamed=True)
    tokens, logits = answers(pipeline, params, PROMPTS[1:])
    wanted, wanted_logits = plain("qwen2-sliding", params, True, "bf16")
    assert tokens == wanted
    assert differing_bits(logits, wanted_logits) == 0


@pytest.mark.parametrize("params", BRIEF, ids=["greedy", "sampled"])
@pytest.mark.parametrize("inner", ["ngram_sd", "classic_sd", "share_sd"])
def test_a_middle_model_that_knows_the_target_is_accepted_whole(inner, params, tiny_checkpoint, plain):
    """The same weights: every token is the middle model's, sampled ones too, since both throw the same dice."""
    folder = tiny_checkpoint("llama3")
    with build(hierspec_for(inner, folder, folder, exact=True), progress=lambda text: None) as generator:
        generation = generator.generate(PROMPTS[1], params)
    assert generation.tokens == plain("llama3", params, True)[0][0]
    assert all(round_.accepted == round_.proposed >= 4 for round_ in generation.rounds[:-1])
    assert all(round_.middles[0].tokens for round_ in generation.rounds[:3])


class Watch:
    """Passes of every runner, told apart by their decoders: rows that were run as a prompt, and trees."""

    def __init__(self, monkeypatch):
        self.prompts, self.trees, self.levels = {}, {}, {}
        score, level = ModelRunner.score, ModelRunner.level

        def spy_on(run):
            def spy_prompt(runner, tokens, features=None):
                self.prompts.setdefault(runner, []).append(tokens.shape[0])
                return run(runner, tokens, features)

            return spy_prompt

        def spy_score(runner, tree):
            self.trees.setdefault(runner, []).append(runner.cache.length)
            return score(runner, tree)

        def spy_level(runner, tree, nodes, features=None):
            self.levels.setdefault(runner, []).append(runner.cache.length)
            return level(runner, tree, nodes, features)

        monkeypatch.setattr(ModelRunner, "prefill", spy_on(ModelRunner.prefill))
        monkeypatch.setattr(ModelRunner, "follow", spy_on(ModelRunner.follow))
        monkeypatch.setattr(ModelRunner, "score", spy_score)
        monkeypatch.setattr(ModelRunner, "level", spy_level)


@pytest.mark.parametrize("inner", ["classic_sd", "eagle_sd"])
def test_what_was_taken_in_part_is_rewound_not_run_again(inner, tiny_checkpoint, nearly, monkeypatch):
    """The middle model runs each prompt row once, one pass a round, and two rows where a chain was taken whole; the
    draft below it runs no committed row twice."""
    target, middle, starts = tiny_checkpoint("llama3"), nearly(), []
    begin = EagleDrafter.begin

    def spy_begin(drafter, text, kept, *rest):
        starts.append((text.shape[0], kept))
        begin(drafter, text, kept, *rest)

    monkeypatch.setattr(EagleDrafter, "begin", spy_begin)
    watch = Watch(monkeypatch)
    with build(hierspec_for(inner, target, middle, exact=False), progress=lambda text: None) as generator:
        rounds = generator.generate(PROMPTS[1], GREEDY).rounds
        drafter = generator._drafter
    partly = [round_ for round_ in rounds[:-1] if 0 < round_.accepted < round_.proposed]
    assert partly, "or nothing is rewound"
    prompts = watch.prompts[drafter._middle]
    assert prompts[0] == len(PROMPTS[1])
    assert set(prompts[1:]) <= {2}, "behind a chain that was taken whole: its last token and the target's"
    whole = sum(round_.accepted == round_.proposed for round_ in rounds[:-1])
    assert len(prompts) - 1 <= whole
    passes = sum(round_.middles[0].rounds for round_ in rounds)
    assert len(watch.trees[drafter._middle]) + len(prompts) - 1 == passes
    if inner == "eagle_sd":
        assert starts[0] == (len(PROMPTS[1]), 0)
        assert all(text - kept in (0, 2) for text, kept in starts[1:]), "it is told of new rows alone"
        assert any(text == kept for text, kept in starts[1:])
        return
    (below,) = set(watch.levels) - {drafter._middle}
    emitted = sum(work.tokens for round_ in rounds for work in round_.middles[:1]) + len(rounds)
    assert sum(watch.prompts[below][1:]) < emitted, "only what its own tree did not hold"


@pytest.mark.parametrize("params", BRIEF, ids=["greedy", "sampled"])
def test_adaptive_chains_and_a_full_context(params, tiny_checkpoint, nearly):
    """Lengths that follow the clock, until the context is full: the middle model's cache is as long as the target's."""
    folder = tiny_checkpoint("llama3")
    pipeline = hierspec_for("ngram_sd", folder, nearly(), levels=3, exact=False, adaptive=True, depth=11)
    pipeline = replace(pipeline, max_length=128)
    asked = replace(params, max_tokens=500)
    answered = []
    for one in (pipeline, replace(pipeline, method="vanilla")):
        with build(one, progress=lambda text: None) as generator:
            answered.append(generator.generate(PROMPTS[1], asked))
    drafted, plain = answered
    assert drafted.tokens == plain.tokens
    assert drafted.finish_reason == plain.finish_reason == "context"


def test_a_middle_model_that_rests_runs_nothing_and_goes_on_as_before(tiny_checkpoint, monkeypatch):
    """It has the target's weights, so all that it offers is taken, behind a rest too."""
    folder, rests, learn, done = tiny_checkpoint("llama3"), range(3, 20), Stride.learn, []
    monkeypatch.setattr(Stride, "learn", lambda stride, *given: learn(stride, *given) or done.append(stride))
    monkeypatch.setattr(Stride, "rests", property(lambda stride: len(done) in rests))
    monkeypatch.setattr(Stride, "drafts", property(lambda stride: not stride.rests))
    watch, params = Watch(monkeypatch), replace(GREEDY, max_tokens=30)
    with build(hierspec_for("classic_sd", folder, folder, exact=False), progress=lambda text: None) as generator:
        answers = [generator.generate(PROMPTS[1], params) for _ in range(2)]  # the second begins in the rest
        prompts = watch.prompts[generator._drafter._middle]
    first, second = (answer.rounds for answer in answers)
    rounds = [*first, *second]
    assert answers[0].tokens == answers[1].tokens and rests.start < len(first) < rests.stop < len(rounds)
    assert all(not rounds[number].proposed and not rounds[number].middles[0].rounds for number in rests)
    later = rounds[rests.stop : -1]
    assert later and all(round_.accepted == round_.proposed >= 4 for round_ in later)
    assert max(prompts[1:]) == len(PROMPTS[1]) + rests.stop - len(first), "at once, and what was answered meanwhile"


def test_every_model_has_a_precision_of_its_own(tiny_checkpoint):
    folder = tiny_checkpoint("llama3")
    pipeline = hierspec_for("share_sd", folder, folder, exact=True)
    pipeline = replace(pipeline, target=replace(pipeline.target, quant="int8"))
    pipeline = replace(pipeline, middle=replace(pipeline.middle, quant="hqq4:g32"), draft=Draft(quant="hqq2:g32"))
    full, placement = plan_for(hierspec_for("share_sd", folder, folder, exact=True)).device_bytes, plan_for(pipeline)
    few = placement.device_bytes
    assert few["4 resident layers"] < full["4 resident layers"]
    assert few["middle's 4 resident layers"] < few["4 resident layers"]
    kernels = {part for part, _, _ in placement.rows() if "kernel" in part}
    assert {"target kernel", "middle's target kernel", "middle's draft kernel"} <= kernels
    with build(pipeline, progress=lambda text: None) as generator:
        drafted = generator.generate(PROMPTS[0], GREEDY)
    with build(replace(pipeline, method="vanilla"), progress=lambda text: None) as generator:
        assert drafted.tokens == generator.generate(PROMPTS[0], GREEDY).tokens
    assert drafted.tau > 0.5
