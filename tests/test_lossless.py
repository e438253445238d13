"""The flagship: every method says what plain decoding says, token for token, and in exact mode bit for bit.

Methods x decoder families x greedy and sampled x resident and streamed x exact and not, on tiny random models.
"""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch

from specdecodes.config import Draft, Memory, Middle, Pipeline, Target, Tree
from specdecodes.errors import BudgetError
from specdecodes.methods import METHODS, UNDRAFTED, build, plan_for
from specdecodes.sampling import SamplingParams
from specdecodes.tree import TokenTree
from tests.conftest import FAMILY_OPTIONS
from tests.heads import head_beside

GREEDY = SamplingParams(max_tokens=60, ignore_eos=True)
SAMPLED = replace(GREEDY, temperature=0.8, top_k=40, top_p=0.95, repetition_penalty=1.1, seed=7)
BRIEF = [replace(params, max_tokens=14) for params in (GREEDY, SAMPLED)]  # for the many
PLACES, DICE, MODES = ("resident", "streamed"), ("greedy", "sampled"), ("fast", "exact")
PARAMS = [pytest.param(params, id=name) for name, params in zip(DICE, BRIEF, strict=True)]
PROMPTS = ((5, 9, 11), tuple(3 + 7 * i % 90 for i in range(75)))
COMBINED, EAGLE3 = "+ngram", ":eagle3"  # onto a method's tree, branches from the text are grafted; with such a head
CODED = ":int8"  # drafted from keys and values in 8 bits
OF_THE_FILE = tuple(method for method in METHODS if method not in ("qspec", "hierspec_sd"))  # which have their own
ROWS = (
    *OF_THE_FILE,
    "eagle_sd" + EAGLE3,
    "classic_sd" + CODED,
    *(f"{method}{COMBINED}" for method in ("classic_sd", "subspec_sd", "eagle_sd")),
)
DRAFTED = [row for row in ROWS if row not in UNDRAFTED and "eagle" not in row]  # the heads are random
EVERYWHERE = ("vanilla", "classic_sd", "subspec_sd")  # on all families
TWICE = ("ngram_sd", "eagle_sd")  # on those with an odd cache or mask; what is made of these parts, on one of them
FEWER = ("llama3", "qwen2-sliding")


def families(row):
    if row in EVERYWHERE:
        return tuple(FAMILY_OPTIONS)
    return FEWER if row in TWICE else FEWER[1:] if COMBINED in row else FEWER[:1]


CASES = [
    pytest.param(row, family, streamed, BRIEF[sampled], exact, id="-".join((row, family, *words)))
    for row in ROWS
    for family in families(row)
    for streamed, sampled, exact in itertools.product((False, True), repeat=3)
    for words in [(PLACES[streamed], DICE[sampled], MODES[exact])]
    if streamed or row != "vanilla"  # which is what all others are compared with
]

pytestmark = pytest.mark.usefixtures("untimed")


def pipeline_for(method, folder, draft, *, exact, streamed=False, compiled=False, depth=5):
    method, combined, _ = method.partition(COMBINED)
    method, eagle3, _ = method.partition(EAGLE3)
    method, coded, _ = method.partition(CODED)
    model = str(draft) if method == "classic_sd" else None
    if method == "eagle_sd":
        model = str(head_beside(folder, "eagle3" if eagle3 else "eagle"))
    middle = Middle(str(draft), tree=Tree(3, 4, 10, adaptive=False)) if method == "hierspec_sd" else Middle()
    pipeline = Pipeline(
        method=method,
        target=Target(str(folder), device="cpu"),
        draft=Draft(
            model=model,
            quant="auto" if model else "hqq4:g32",
            ngram=4 if combined else 0,
            kv="int8" if coded else "auto",
        ),
        tree=Tree(width=3, depth=depth, nodes=12, adaptive=False),
        middle=middle,
        memory=Memory(device="4GiB"),
        max_length=256,
        exact=exact,
        compile=compiled,
    )
    return replace(pipeline, memory=Memory(device=smallest_budget(pipeline))) if streamed else pipeline


def smallest_budget(pipeline):
    """What the planner says is the least that works: everything that can stream, streams."""
    with pytest.raises(BudgetError) as refused:
        plan_for(replace(pipeline, memory=Memory(device=1)))
    return 1 + refused.value.shortfall_bytes


def answers(pipeline, params, prompts=PROMPTS):
    """Token ids and target logits of every prompt, then of a second turn on the kept cache."""
    tokens, logits = [], []
    with build(pipeline, progress=lambda text: None) as generator:
        assert bool(generator.placement.streamed) == (pipeline.memory.device != "4GiB")
        for prompt in prompts:
            tokens.append(generator.generate(prompt, params, on_logits=lambda rows: logits.append(rows.clone())).tokens)
        second = generator.generate(
            prompts[-1] + tokens[-1] + (8, 9),
            params,
            reuse_cache=True,
            on_logits=lambda rows: logits.append(rows.clone()),
        )
        assert second.cached_tokens == len(prompts[-1] + tokens[-1]) - 1
        tokens.append(second.tokens)
    return tokens, torch.cat(logits)


def differing_bits(ours, theirs):
    bits = {2: torch.int16, 4: torch.int32}[ours.element_size()]
    return int((ours.view(bits) != theirs.view(bits)).sum())


def plain_answers(tiny_checkpoint, prompts=PROMPTS):
    """`run(family, params, exact)`: of plain decoding, resident, once for every case that is compared with it."""
    known = {}

    def run(family, params, exact, dtype="fp32", compiled=False):
        key = (family, params, exact, dtype, compiled)
        if key not in known:
            folder = tiny_checkpoint(family, dtype)
            known[key] = answers(pipeline_for("vanilla", folder, None, exact=exact, compiled=compiled), params, prompts)
        return known[key]

    return run


@pytest.fixture(scope="module")
def plain(tiny_checkpoint):
    return plain_answers(tiny_checkpoint)


@pytest.mark.parametrize(("method", "family", "streamed", "params", "exact"), CASES)
def test_tokens_equal_plain_decoding(method, family, streamed, params, exact, tiny_checkpoint, plain):
    folder, levels = tiny_checkpoint(family), 3 if "eagle" in method else 5  # a random head is right at none of them
    pipeline = pipeline_for(method, folder, folder, exact=exact, streamed=streamed, depth=levels)
    tokens, logits = answers(pipeline, params)
    wanted, wanted_logits = plain(family, params, exact)
    assert tokens == wanted
    if exact:
        assert differing_bits(logits, wanted_logits) == 0


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
@pytest.mark.parametrize("params", PARAMS)
@pytest.mark.parametrize("method", (*OF_THE_FILE, "eagle_sd" + EAGLE3, "classic_sd" + COMBINED))
def test_exact_mode_is_bit_for_bit_in_half_precision(method, params, dtype, tiny_checkpoint, plain):
    """Streamed, and drafted by another model (seed 1), so that most rounds accept only part of a path."""
    folder, draft = tiny_checkpoint("qwen3", dtype), tiny_checkpoint("qwen3", dtype, seed=1)
    tokens, logits = answers(pipeline_for(method, folder, draft, exact=True, streamed=True), params)
    wanted, wanted_logits = plain("qwen3", params, True, dtype)
    assert tokens == wanted
    assert logits.dtype == {"bf16": torch.bfloat16, "fp16": torch.float16}[dtype]
    assert differing_bits(logits, wanted_logits) == 0


def test_a_tree_of_512_nodes_is_exact_bit_for_bit(tiny_checkpoint):
    """Drafted by another model, so that most rounds accept one of many branches."""
    folder, draft = tiny_checkpoint("llama", "bf16"), tiny_checkpoint("llama", "bf16", seed=1)
    answered = []
    for method in ("vanilla", "classic_sd"):
        pipeline = pipeline_for(method, folder, draft, exact=True)
        pipeline = replace(pipeline, tree=Tree(width=64, depth=8, nodes=512, adaptive=False), max_length=512)
        logits = []
        with build(pipeline, progress=lambda text: None) as generator:
            params = replace(SAMPLED, max_tokens=12)
            generation = generator.generate(PROMPTS[1], params, on_logits=lambda rows, kept=logits: kept.append(rows))
        answered.append((generation, torch.cat(logits)))
    (plain, plain_logits), (drafted, drafted_logits) = answered
    assert drafted.tokens == plain.tokens and differing_bits(drafted_logits, plain_logits) == 0
    assert max(sum(r.proposed_by_depth) for r in drafted.rounds) > 400
    assert len(drafted.rounds) < len(plain.rounds)


@pytest.mark.parametrize("method", DRAFTED)
def test_drafts_are_accepted(method, tiny_checkpoint):
    """The matrix would hold for a drafter that is always wrong; this one is mostly right."""
    folder = tiny_checkpoint("llama")
    with build(pipeline_for(method, folder, folder, exact=True), progress=lambda text: None) as generator:
        generation = generator.generate(PROMPTS[0], GREEDY)
    assert generation.tau > 1
    assert len(generation.rounds) < 30
    assert sum(len(r.tokens) for r in generation.rounds) == 59


def test_no_pass_that_a_draft_may_choose_is_compiled_in_an_answer(tiny_checkpoint):
    """Not exact, so passes have several sizes; all are compiled at load, however few of them the first answer takes."""
    folder = tiny_checkpoint("llama")
    pipeline = pipeline_for("subspec_sd", folder, folder, exact=False, compiled=True)
    pipeline = replace(pipeline, tree=replace(pipeline.tree, adaptive=True))
    with build(pipeline, progress=lambda text: None) as generator:
        generator.generate(PROMPTS[1], BRIEF[0])
        built = generator.compile_log.graphs
        for rows in (1, pipeline.tree.nodes // 4, pipeline.tree.nodes // 2, pipeline.tree.nodes):
            with torch.no_grad():
                generator._target.score(TokenTree.rooted(torch.zeros(1, dtype=torch.int64), rows))
        assert generator.compile_log.graphs == built > 0


@pytest.mark.parametrize("method", (*OF_THE_FILE, "eagle_sd" + EAGLE3))
def test_compiled_steps_are_exact_and_compiled_once(method, tiny_checkpoint, plain):
    folder = tiny_checkpoint("llama")
    greedy, sampled = BRIEF
    pipeline = pipeline_for(method, folder, folder, exact=True, compiled=True)
    with build(pipeline, progress=lambda text: None) as generator:
        generator.generate(PROMPTS[1], greedy)
        built = generator.compile_log.graphs
        for prompt in PROMPTS:
            generator.generate(prompt, sampled)
        assert generator.compile_log.graphs == built > 0
    tokens, logits = answers(pipeline, greedy)
    wanted, wanted_logits = plain("llama", greedy, True, compiled=True)
    assert tokens == wanted
    assert differing_bits(logits, wanted_logits) == 0
