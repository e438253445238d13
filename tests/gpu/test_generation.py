"""Whole methods on the device: lossless in every dtype and from every tier, replayed as launched, within the budget."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from specdecodes.config import Memory
from specdecodes.engine.timing import PhaseClock
from specdecodes.errors import BudgetError
from specdecodes.methods import build, plan_for
from tests.test_lossless import DRAFTED, GREEDY, OF_THE_FILE, PROMPTS, SAMPLED, answers, differing_bits, pipeline_for

TIERS = ("resident", "host", "disk")
EXACT = [(params, "bf16", tier) for params in (GREEDY, SAMPLED) for tier in TIERS]
EXACT += [(SAMPLED, dtype, "host") for dtype in ("fp32", "fp16")]


def on_gpu(method, folder, draft, *, tier="resident", **options):
    pipeline = pipeline_for(method, folder, draft, **options)
    pipeline = replace(pipeline, target=replace(pipeline.target, device="cuda"))
    if tier == "resident":
        return pipeline
    device = least(pipeline, lambda size: Memory(device=size, host="4GiB"))
    host = "4GiB" if tier == "host" else least(pipeline, lambda size: Memory(device=device, host=size))
    pipeline = replace(pipeline, memory=Memory(device=device, host=host))
    assert plan_for(pipeline).tier == tier
    return pipeline


def least(pipeline, memory):
    """What the planner says is the least that works for one budget."""
    with pytest.raises(BudgetError) as refused:
        plan_for(replace(pipeline, memory=memory(1)))
    return 1 + refused.value.shortfall_bytes


@pytest.fixture(scope="module")
def plain(tiny_checkpoint):
    """Plain decoding in exact mode, resident, run once for every case that is compared with it."""
    known = {}

    def run(params, dtype):
        if (params, dtype) not in known:
            known[params, dtype] = answers(on_gpu("vanilla", tiny_checkpoint("qwen3", dtype), None, exact=True), params)
        return known[params, dtype]

    return run


@pytest.mark.parametrize(("params", "dtype", "tier"), EXACT)
@pytest.mark.parametrize("method", OF_THE_FILE)
@pytest.mark.usefixtures("untimed")
def test_exact_mode_is_bit_for_bit(method, params, dtype, tier, tiny_checkpoint, plain):
    """Drafted by another model (seed 1) where there is one, so that most rounds accept only part of a path."""
    folder, draft = tiny_checkpoint("qwen3", dtype), tiny_checkpoint("qwen3", dtype, seed=1)
    tokens, logits = answers(on_gpu(method, folder, draft, exact=True, tier=tier), params)
    wanted, wanted_logits = plain(params, dtype)
    assert tokens == wanted
    assert differing_bits(logits, wanted_logits) == 0


@pytest.mark.parametrize("params", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
@pytest.mark.parametrize("method", DRAFTED)
@pytest.mark.usefixtures("untimed")
def test_fast_mode_says_what_plain_decoding_says_in_fp32(method, params, tiny_checkpoint):
    folder = tiny_checkpoint("llama")
    wanted, _ = answers(on_gpu("vanilla", folder, None, exact=False), params)
    tokens, _ = answers(on_gpu(method, folder, folder, exact=False), params)
    assert tokens == wanted


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize(("exact", "tier"), [(True, "host"), (False, "resident")])
@pytest.mark.usefixtures("untimed")
def test_what_is_replayed_is_what_is_launched(exact, tier, compiled, tiny_checkpoint, caplog):
    """The rounds of whole answers and their logits, with levels and layers recorded and not; nothing was refused."""
    folder = tiny_checkpoint("llama", "bf16", num_hidden_layers=5)
    pipeline = on_gpu("subspec_sd", folder, folder, exact=exact, compiled=compiled, tier=tier)
    found = []
    for graphs in (True, False):
        rounds, logits = [], []
        with build(replace(pipeline, graphs=graphs), progress=lambda text: None) as generator:
            for params in (GREEDY, SAMPLED):
                for prompt in PROMPTS:
                    answer = generator.generate(prompt, params, on_logits=lambda rows, kept=logits: kept.append(rows))
                    rounds.append([(r.tokens, r.proposed_by_depth) for r in answer.rounds])
        found.append((rounds, torch.cat(logits)))
    (replayed, replayed_logits), (launched, launched_logits) = found
    assert replayed == launched
    assert differing_bits(replayed_logits, launched_logits) == 0
    assert not [record for record in caplog.records if "CUDA graphs" in record.getMessage()]


@pytest.mark.parametrize("method", ["subspec_sd", "eagle_sd"])
@pytest.mark.usefixtures("untimed")
def test_nothing_is_compiled_twice(method, tiny_checkpoint):
    folder = tiny_checkpoint("llama", "bf16")
    pipeline = on_gpu(method, folder, folder, exact=True, compiled=True, tier="host")
    with build(pipeline, progress=lambda text: None) as generator:
        generator.generate(PROMPTS[1], GREEDY)
        built = generator.compile_log.graphs
        for prompt in PROMPTS:
            generator.generate(prompt, SAMPLED)
        assert generator.compile_log.graphs == built > 0


@pytest.mark.parametrize("method", OF_THE_FILE)
def test_the_budget_is_kept_under_a_cap(method, tiny_checkpoint):
    """The allocator itself refuses more; beside the budget it has the room of cuBLAS's workspaces, of two streams."""
    folder = tiny_checkpoint("llama", "bf16", hidden_size=1024, intermediate_size=4096, num_hidden_layers=12)
    pipeline = on_gpu(method, folder, tiny_checkpoint("llama", "bf16"), exact=True, tier="host")
    budget, workspace = pipeline.memory.device_bytes, 192 * 2**20
    torch.cuda.empty_cache()
    before, total = torch.cuda.memory_allocated(), torch.cuda.mem_get_info()[1]
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + budget + workspace) / total)
    torch.cuda.reset_peak_memory_stats()
    try:
        with build(pipeline, progress=lambda text: None) as generator:
            assert len(generator.generate(PROMPTS[1], GREEDY).tokens) == 60
            assert torch.cuda.max_memory_allocated() - before <= budget + workspace // 2
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


def test_weights_go_on_arriving_when_a_phase_ends():
    """The end of a phase waits for its own kernels: copies enqueued behind it are still under way."""
    host = torch.empty(256 * 2**20, dtype=torch.uint8).pin_memory()
    device, copies = torch.empty_like(host, device="cuda"), torch.cuda.Stream()
    clock, done = PhaseClock(torch.device("cuda")), torch.cuda.Event()
    with clock("target"):
        with torch.cuda.stream(copies):
            for _ in range(4):
                device.copy_(host, non_blocking=True)
        done.record(copies)
    assert not done.query()
    torch.cuda.synchronize()
