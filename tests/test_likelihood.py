"""Scored tokens: the same figures as Transformers', however requests are put together and whatever the cache holds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from specdecodes.config import Memory, Pipeline, Target, Tree
from specdecodes.errors import ContextOverflowError, NumericsError
from specdecodes.generator import Generator
from specdecodes.likelihood import Forest, Likelihood, ScoreRequest, batches
from specdecodes.methods import build
from specdecodes.sampling import SamplingParams

BEGINNING = tuple(3 + 7 * i % 90 for i in range(40))
OTHER = tuple(3 + 5 * i % 90 for i in range(90))
REQUESTS = (
    ScoreRequest(BEGINNING + (5, 6, 7), 40),
    ScoreRequest(BEGINNING + (5, 9), 40),
    ScoreRequest(OTHER),
    ScoreRequest(BEGINNING + (8,), 40),
    ScoreRequest((1, 4), 1),
    ScoreRequest(BEGINNING[:20] + OTHER, 30),
)


def open_pipeline(folder: Path, **changes) -> Generator:
    pipeline = Pipeline(
        "vanilla",
        Target(str(folder), device="cpu"),
        tree=Tree(width=3, depth=5, nodes=12),
        memory=Memory(device="4GiB"),
        max_length=128,
        compile=False,
    )
    return build(replace(pipeline, **changes), progress=lambda text: None)


@pytest.fixture(scope="module")
def generator(tiny_checkpoint: Callable[..., Path]) -> Iterator[Generator]:
    with open_pipeline(tiny_checkpoint("llama")) as opened:
        yield opened


def by_transformers(folder: Path) -> list[Likelihood]:
    from transformers import AutoModelForCausalLM

    model, found = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval(), []
    for request in REQUESTS:
        with torch.no_grad():
            rows = model(torch.tensor([request.inputs])).logits[0].log_softmax(-1)[request.first - 1 :]
        tokens = torch.tensor(request.tokens[request.first :])
        nats = rows.gather(1, tokens[:, None])[:, 0]
        found.append(Likelihood(tuple(nats.tolist()), tuple((rows.argmax(-1) == tokens).tolist())))
    return found


def assert_same(ours: list[Likelihood], theirs: list[Likelihood]) -> None:
    for one, other in zip(ours, theirs, strict=True):
        assert one.logprobs == pytest.approx(other.logprobs, abs=2e-4)
        assert one.likeliest == other.likeliest


@pytest.mark.parametrize("family", ["llama3", "qwen2-sliding", "qwen3", "mistral"])
@pytest.mark.parametrize("exact", [False, True], ids=["fast", "exact"])
def test_figures_equal_transformers(family: str, exact: bool, tiny_checkpoint: Callable[..., Path]) -> None:
    folder = tiny_checkpoint(family)
    with open_pipeline(folder, exact=exact) as opened:
        wanted = by_transformers(folder)
        for batch in (1, 4, None):
            assert_same(opened.score(REQUESTS, batch=batch), wanted)


def test_batches_do_not_change_a_bit_in_exact_mode(tiny_checkpoint: Callable[..., Path]) -> None:
    with open_pipeline(tiny_checkpoint("llama", "bf16"), exact=True) as opened:
        alone = opened.score(REQUESTS)
        assert opened.score(REQUESTS, batch=None) == alone == opened.score(REQUESTS[::-1], batch=2)[::-1]


def test_a_shared_beginning_is_run_once(generator: Generator) -> None:
    def rows_run(requests: tuple[ScoreRequest, ...], batch: int | None) -> int:
        counts: list[int] = []
        generator.score(requests, batch=batch, on_logits=lambda logits: counts.append(len(logits)))
        return sum(counts)

    family = (REQUESTS[0], REQUESTS[1], REQUESTS[3])
    rows_run(REQUESTS[4:5], 1)  # something else is in the cache
    assert rows_run(family, None) == 42, "the beginning, and two tokens after it"
    assert rows_run(REQUESTS[:1], 1) == 3, "rows of the beginning are in the cache, its last one is asked again"
    assert rows_run(REQUESTS[1:2], 1) == 2
    rows_run(REQUESTS[4:5], 1)
    assert rows_run(family, 1) == 40 + 2 + 3


def test_an_answer_after_scoring_is_the_same(generator: Generator) -> None:
    params = SamplingParams(max_tokens=8, ignore_eos=True)
    before = generator.generate(BEGINNING, params)
    generator.score(REQUESTS)
    after = generator.generate(BEGINNING + before.tokens, params, reuse_cache=True)
    assert after.cached_tokens == 0, "what was scored is nothing that the drafter has seen"
    assert generator.generate(BEGINNING, params).tokens == before.tokens
    assert_same(generator.score(REQUESTS[:1]), generator.score(REQUESTS, batch=None)[:1])


def test_progress_is_told_by_requests(generator: Generator) -> None:
    done: list[int] = []
    generator.score(REQUESTS, batch=4, watch=done.append)
    assert sum(done) == len(REQUESTS) and max(done) <= 4
    assert generator.score([]) == []


def test_batches_hold_what_fits_and_keep_neighbours_together() -> None:
    for most, room in ((1, 128), (2, 128), (None, 128), (None, 200)):
        found = list(batches(REQUESTS, most, room))
        assert sorted(place for batch in found for place in batch) == list(range(len(REQUESTS)))
        assert all(len(batch) <= (most or 99) for batch in found)
        assert all(len(Forest([REQUESTS[i] for i in batch], 0).tokens) <= room for batch in found)


def test_a_text_longer_than_the_context_is_refused(generator: Generator) -> None:
    fits = ScoreRequest((3,) * 129, 128)
    assert len(generator.score([fits])[0].logprobs) == 1
    with pytest.raises(ContextOverflowError, match="130 tokens and the context holds 128"):
        generator.score([replace(fits, tokens=(3,) * 130)])


def test_a_model_that_computes_nan_is_told(tiny_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    import shutil

    from safetensors.torch import load_file, save_file

    folder = tmp_path / "broken"
    shutil.copytree(tiny_checkpoint("llama"), folder)
    weights = load_file(folder / "model.safetensors")
    weights["model.layers.1.mlp.up_proj.weight"][0, 0] = float("nan")
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with open_pipeline(folder) as opened, pytest.raises(NumericsError):
        opened.score(REQUESTS)


def test_a_forest_s_ends_say_who_descends_from_whom() -> None:
    """Of any order of requests, one of them the beginning of another, and one twice."""
    for chosen in (
        REQUESTS,
        REQUESTS[::-1],
        sorted(REQUESTS, key=lambda one: one.tokens) + [ScoreRequest(BEGINNING)] * 2,
    ):
        forest = Forest(chosen, 0)
        order = torch.arange(len(forest.tokens))
        seen = (order <= order[:, None]) & (order[:, None] < torch.tensor(forest.ends))
        for request, path in zip(chosen, forest.paths, strict=True):
            assert tuple(forest.tokens[node] for node in path) == request.inputs
            for depth, node in enumerate(path):
                assert seen[node].nonzero().flatten().tolist() == path[: depth + 1]
                assert forest.depths[node] == depth
