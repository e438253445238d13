"""A model's steps: which rows of the cache they write and read, and how many graphs they take."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from specdecodes.cache import CacheShape, KVCache
from specdecodes.engine import compile as module
from specdecodes.engine.layers import ResidentLayers
from specdecodes.engine.runner import ModelRunner
from specdecodes.models.decoder import Decoder
from specdecodes.models.loading import load_layers, load_outer, open_checkpoint
from specdecodes.tree import TokenTree

DRAFT, TARGET, COMMITTED = 12, 16, 10
CPU = torch.device("cpu")


@pytest.fixture
def runner(tiny_checkpoint) -> ModelRunner:
    """With a prompt of ten tokens behind a draft's region of twelve rows."""
    checkpoint = open_checkpoint(str(tiny_checkpoint("llama")))
    decoder, spec = Decoder(checkpoint.spec, torch.float32), checkpoint.spec
    load_outer(decoder, checkpoint, CPU)
    load_layers(decoder, checkpoint, range(spec.layers), CPU)
    cache = KVCache(CacheShape(spec.layers, spec.kv_heads, spec.head_dim, 64, DRAFT, TARGET), torch.float32)
    layers = ResidentLayers(decoder.stack)
    made = ModelRunner(decoder, layers, cache, module.eager_steps(), width=8, chunk=TARGET, exact=False)
    with torch.no_grad():
        made.prefill(torch.arange(3, 3 + COMMITTED))
    return made


def tree_of(capacity: int) -> TokenTree:
    tree = TokenTree.rooted(torch.tensor(5), capacity)
    tree.extend(torch.tensor([0, 0]), torch.tensor([7, 8]), torch.tensor([-1.0, -2.0]))
    return tree


def written(runner: ModelRunner, before: torch.Tensor) -> list[int]:
    """The slots whose keys are not as they were."""
    return (runner.cache.keys != before).any(-1).flatten(0, 2).any(0).nonzero().flatten().tolist()


def drafted(runner: ModelRunner) -> torch.Tensor:
    """Logits of the second level."""
    tree = tree_of(DRAFT)
    runner.level(tree, torch.tensor([0]))
    return runner.level(tree, torch.tensor([1, 2])).logits


@torch.no_grad()
def test_a_draft_and_a_pass_write_regions_of_their_own(runner):
    before = runner.cache.keys.clone()
    drafted(runner)
    assert written(runner, before) == [0, 1, 2]
    before = runner.cache.keys.clone()
    runner.score(tree_of(8))
    assert written(runner, before) == list(range(DRAFT + COMMITTED, DRAFT + COMMITTED + 8))


@torch.no_grad()
def test_neither_reads_what_the_other_has_half_written(runner):
    """So that one may run beside the other: its region holds what would show in any sum."""
    of_draft, of_target = drafted(runner), runner.score(tree_of(8)).logits
    for rows in (runner.cache.keys, runner.cache.values):
        rows[:, :, :, DRAFT + COMMITTED :] = float("nan")
    assert drafted(runner).equal(of_draft)
    for rows in (runner.cache.keys, runner.cache.values):
        rows[:, :, :, :DRAFT] = float("nan")
    assert runner.score(tree_of(8)).logits.equal(of_target)


@torch.no_grad()
def test_one_graph_serves_all_layers(runner):
    def step(layer, hidden, at):
        return module.layer_step(layer, hidden, at)

    log = module.CompileLog()
    compiled = module._timed(torch.compile(step, fullgraph=True, dynamic=False, backend="eager"), log)
    runner.stack.steps = replace(runner.steps, layer=compiled)
    assert len(runner.decoder.stack) == 4
    wanted = runner.score(tree_of(8)).logits
    assert log.graphs == 1
    assert runner.score(tree_of(8)).logits.equal(wanted) and log.graphs == 1
