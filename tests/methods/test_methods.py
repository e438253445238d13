"""Assembly: what a plan says before anything is loaded, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from specdecodes.config import Draft, Memory, Target, Tree
from specdecodes.errors import BudgetError, CheckpointError, ConfigError
from specdecodes.methods import build, plan_for
from specdecodes.methods.assembly import layer_kinds, pass_seconds
from specdecodes.methods.memory import placement
from specdecodes.methods.memory.sizes import solving_peak
from specdecodes.methods.site import Site
from specdecodes.offload.planning.predict import Step, StepTimes
from specdecodes.offload.storage.store import SINGLE
from specdecodes.quant import Rules
from tests.conftest import write_tokenizer
from tests.test_lossless import GREEDY, OF_THE_FILE, PROMPTS, pipeline_for, smallest_budget


@pytest.mark.parametrize("method", OF_THE_FILE)
def test_the_smallest_budget_works_and_one_byte_less_does_not(method, tiny_checkpoint):
    folder = tiny_checkpoint("llama")
    pipeline = pipeline_for(method, folder, folder, exact=True)
    least = smallest_budget(pipeline)
    placement = plan_for(replace(pipeline, memory=Memory(least)))
    assert len(placement.streamed) == 4
    assert sum(placement.device_bytes.values()) <= least
    with pytest.raises(BudgetError, match="--device-memory") as refused:
        plan_for(replace(pipeline, memory=Memory(least - 1)))
    assert refused.value.shortfall_bytes == 1


def test_every_spare_byte_is_used(tiny_checkpoint):
    folder = tiny_checkpoint("llama", hidden_size=128, num_hidden_layers=8)
    pipeline = pipeline_for("vanilla", folder, None, exact=True)
    pipeline = replace(pipeline, max_length=64)  # one chunk: no longer stretch of a prompt that would take the bytes
    least = smallest_budget(pipeline)
    layer = plan_for(pipeline).device_bytes["8 resident layers"] // 8
    resident = [len(plan_for(replace(pipeline, memory=Memory(least + spare * layer))).resident) for spare in range(5)]
    assert resident == [0, 1, 2, 3, 4]


def test_a_prompts_stretch_is_shorter_where_memory_is_short(tiny_checkpoint):
    """The smallest placement reads the weights for every chunk; with a little more, once for thousands of tokens."""
    folder = tiny_checkpoint("llama", max_position_embeddings=4096)
    pipeline = replace(pipeline_for("vanilla", folder, None, exact=True), max_length=3000)
    least = smallest_budget(pipeline)
    kept = (2048 - 256) * 2 * (64 + 16) * 4  # hidden states, and cos and sin
    stretches = [plan_for(replace(pipeline, memory=Memory(least + more))).stretch for more in (0, kept - 1, kept)]
    assert stretches == [256, 256, 2048]


def test_a_streamed_prompt_reads_the_weights_once_for_thousands_of_tokens(tiny_checkpoint):
    """3000 tokens are twelve chunks, and two passes of the weights."""
    folder = tiny_checkpoint("llama", max_position_embeddings=4096)
    pipeline = replace(pipeline_for("vanilla", folder, None, exact=False), max_length=3100)
    kept = (2048 - 256) * 2 * (64 + 16) * 4  # hidden states, and cos and sin
    pipeline = replace(pipeline, memory=Memory(smallest_budget(pipeline) + kept, ahead=False))
    with build(pipeline, progress=lambda text: None) as generator, torch.no_grad():
        placement, runner = generator.placement, generator._target
        assert len(placement.streamed) == 4 and placement.stretch == 2048
        runner.prefill(torch.arange(3000) % 90 + 3)
        assert 2.0 <= runner.traffic.bytes_read / placement.bytes_per_pass < 2.1  # whole pages of the disk


@pytest.mark.parametrize("drafts", [False, True], ids=["target", "draft"])
def test_a_context_beyond_the_checkpoints_positions_is_refused(drafts, tiny_checkpoint):
    short, long = tiny_checkpoint("llama"), tiny_checkpoint("llama", max_position_embeddings=4096)
    pipeline = pipeline_for("classic_sd", long if drafts else short, short if drafts else long, exact=True)
    plan_for(replace(pipeline, max_length=2048))
    with pytest.raises(
        ConfigError, match="max_length is 2049, but .* is made for 2048 positions; give --max-length 2048"
    ):
        plan_for(replace(pipeline, max_length=2049))


def test_budgets_and_sizes_can_be_written_as_text(tiny_checkpoint):
    pipeline = pipeline_for("vanilla", tiny_checkpoint("llama"), None, exact=True)
    assert plan_for(replace(pipeline, memory=Memory("1GiB"))).tier == "resident"


def test_a_budget_is_what_was_asked_as_far_as_it_is_free(tiny_checkpoint, monkeypatch):
    pipeline = pipeline_for("vanilla", tiny_checkpoint("llama"), None, exact=True)
    monkeypatch.setattr(placement, "free_bytes", lambda device: 100_000_000)
    for asked, given, source in (
        (None, 90_000_000, "nine tenths of what is free"),
        (70_000_000, 70_000_000, ""),
        (200_000_000, 100_000_000, "all that is free of the 191 MiB asked"),
    ):
        budgets = plan_for(replace(pipeline, memory=Memory(asked))).budgets
        assert (budgets.device, budgets.source) == (given, source)


def test_a_budget_that_nothing_uses_is_told(tiny_checkpoint):
    """Beside no GPU there is one memory."""
    pipeline = pipeline_for("vanilla", tiny_checkpoint("llama"), None, exact=True)
    told = {row[0]: row for row in plan_for(replace(pipeline, memory=Memory(device="4GiB", host="2GiB"))).rows()}
    assert "not used" in told["host budget"][1] and told["host budget"][2] == "2GiB"
    assert "host budget" not in {row[0] for row in plan_for(pipeline).rows()}


def test_a_draft_model_that_nothing_uses_is_told(tiny_checkpoint):
    """Refused where the draft is another, and a row of the plan where none drafts: so methods can be tried in turn."""
    pipeline = pipeline_for("vanilla", tiny_checkpoint("llama"), None, exact=True)
    for method in ("vanilla", "ngram_sd"):
        given = replace(pipeline, method=method, draft=Draft("another/model"))
        told = {row[0]: row for row in plan_for(given).rows()}
        assert told["draft model"][1:] == (f"not used: {method} drafts without one", "another/model")
    assert "draft model" not in {row[0] for row in plan_for(pipeline).rows()}
    for method in ("subspec_sd", "share_sd", "qspec"):
        with pytest.raises(
            ConfigError, match=f"draft.model is another/model, and {method} .*draft.model=none.*classic"
        ):
            plan_for(replace(pipeline, method=method, draft=Draft("another/model")))


def test_unknown_method_is_named(tiny_checkpoint):
    pipeline = replace(pipeline_for("vanilla", tiny_checkpoint("llama"), None, exact=True), method="subspek_sd")
    with pytest.raises(ConfigError, match="subspek_sd.*subspec_sd"):
        build(pipeline)


def test_classic_needs_a_draft_with_the_same_tokenizer(tiny_checkpoint, tmp_path):
    folder = tiny_checkpoint("llama")
    with pytest.raises(ConfigError, match="--draft-model"):
        plan_for(replace(pipeline_for("vanilla", folder, None, exact=True), method="classic_sd"))
    other = tmp_path / "other"
    other.mkdir()
    for file in folder.iterdir():
        (other / file.name).write_bytes(file.read_bytes())
    write_tokenizer(other, 90)
    with pytest.raises(ConfigError, match="different vocabularies"):
        plan_for(pipeline_for("classic_sd", folder, other, exact=True))
    write_tokenizer(other, 97)
    for name in ("tokenizer.json", "tokenizer_config.json"):  # another release's name for a token that is no word
        (other / name).write_text((other / name).read_text().replace("<unk>", "<pad>"))
    build(pipeline_for("classic_sd", folder, other, exact=True), progress=lambda text: None).close()


def test_eagle_needs_a_head_that_fits(tiny_checkpoint, tmp_path):
    folder = tiny_checkpoint("llama")
    pipeline = pipeline_for("eagle_sd", folder, folder, exact=True)
    with pytest.raises(ConfigError, match="--draft-model"):
        plan_for(replace(pipeline, draft=Draft()))
    with pytest.raises(ConfigError, match="full precision; leave out draft.quant=hqq4"):
        plan_for(replace(pipeline, draft=replace(pipeline.draft, quant="hqq4")))
    with pytest.raises(CheckpointError, match="hidden_size is 64 and the target's is 128"):
        plan_for(replace(pipeline, target=replace(pipeline.target, model=str(tiny_checkpoint(hidden_size=128)))))
    with pytest.raises(CheckpointError, match="num_hidden_layers is 4; an EAGLE head has one layer"):
        plan_for(replace(pipeline, draft=Draft(str(folder))))


def test_a_head_and_what_it_keeps_are_planned_for(tiny_checkpoint):
    """Its weights by the file, a row of cache for every token and node, and features of all of them."""
    pipeline = pipeline_for("eagle_sd", tiny_checkpoint("llama"), None, exact=True)
    parts = plan_for(pipeline).device_bytes
    weights = 4 * sum(tensor.numel() for tensor in load_file(Path(pipeline.draft.model) / SINGLE).values())
    rows = pipeline.max_length + 3 * 6  # every level of the tree, the root's padding included
    prompt = pipeline.max_length + 64  # the hidden states of a prompt, its last chunk padded
    features = 4 * 64 * (rows + prompt)
    assert parts["draft model"] == weights + features
    assert parts["draft's key-value cache"] == 4 * 2 * 2 * 16 * (rows + 64)


@pytest.mark.parametrize("method", ["subspec_sd", "share_sd", "qspec", "ngram_sd"])
def test_keys_and_values_that_decide_answers_stay_whole(method, tiny_checkpoint):
    pipeline = pipeline_for("vanilla", tiny_checkpoint("llama"), None, exact=True)
    pipeline = replace(pipeline, draft=replace(pipeline.draft, kv="int8"))
    plan_for(pipeline)  # plain decoding has no draft, and is what others are compared with
    with pytest.raises(ConfigError, match=f"a draft of {method} keeps no keys and values beside the target's own"):
        plan_for(replace(pipeline, method=method))


@pytest.mark.parametrize("method", ["classic_sd", "eagle_sd"])
def test_a_draft_s_keys_and_values_in_8_bits_are_planned_for(method, tiny_checkpoint):
    """Each row of 16 numbers as 16 codes and a step; the target's rows are as they were."""
    folder = tiny_checkpoint("llama")
    whole = pipeline_for(method, folder, folder, exact=True)
    plans = [plan_for(one) for one in (whole, replace(whole, draft=replace(whole.draft, kv="int8")))]
    before, after = (plan.device_bytes for plan in plans)
    cache = "draft's key-value cache"
    assert after[cache] * 4 * 16 == before[cache] * (16 + 4)
    assert {part: size for part, size in after.items() if part != cache} == {
        part: size for part, size in before.items() if part != cache
    }
    told = [[row for row in plan.rows() if row[0] == "draft's keys and values"] for plan in plans]
    assert told == [[], [("draft's keys and values", "8 bits, and a step a row and head", "int8")]]


def test_32k_tokens_are_planned_for(tiny_checkpoint):
    """A row of cache for each and for a chunk behind them; thousands of tokens of a prompt a pass of the weights."""
    pipeline = pipeline_for("vanilla", tiny_checkpoint("llama", max_position_embeddings=32768), None, exact=True)
    pipeline = replace(pipeline, max_length=32768)
    placement = plan_for(pipeline)
    assert placement.device_bytes["key-value cache"] == 2 * 4 * 2 * 16 * 4 * (32768 + 64)
    assert placement.stretch >= 2048
    shorter = plan_for(replace(pipeline, max_length=16384)).device_bytes["key-value cache"]
    assert placement.device_bytes["key-value cache"] - shorter == 2 * 4 * 2 * 16 * 4 * 16384


def test_a_device_that_is_not_there(tiny_checkpoint):
    pipeline = pipeline_for("vanilla", tiny_checkpoint("llama"), None, exact=True)
    with pytest.raises(ConfigError, match="is no device"):
        build(replace(pipeline, target=replace(pipeline.target, device="gpu0")))
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="no CUDA device"):
            build(replace(pipeline, target=replace(pipeline.target, device="cuda")))


def test_other_dtype_on_arrival(tiny_checkpoint):
    """A bf16 checkpoint run in fp32, streamed: what arrives is converted, and equals what is resident."""
    folder = tiny_checkpoint("llama", "bf16")
    answers = []
    for streamed in (False, True):
        pipeline = pipeline_for("vanilla", folder, None, exact=True)
        pipeline = replace(pipeline, target=Target(str(folder), dtype="fp32", device="cpu"))
        if streamed:
            pipeline = replace(pipeline, memory=Memory(smallest_budget(pipeline)))
        with build(pipeline, progress=lambda text: None) as made:
            answers.append(made.generate(PROMPTS[0], GREEDY).tokens)
    assert answers[0] == answers[1]


def test_layers_of_one_kind_stand_for_each_other(tiny_checkpoint):
    pipeline = pipeline_for("vanilla", tiny_checkpoint("llama"), None, exact=False)
    mixed = replace(pipeline, target=replace(pipeline.target, quant="int8+layers.2=none+layers.3.mlp.up_proj=int4"))
    assert layer_kinds(Site.of(pipeline), ()) == [0]
    assert layer_kinds(Site.of(pipeline), {1, 2}) == [0, 1]
    assert layer_kinds(Site.of(mixed), ()) == [0, 2, 3]


@pytest.mark.parametrize(
    ("device", "every", "exact", "sizes"),
    [
        ("cpu", True, False, [64, 32, 16, 8, 4, 2, 1]),
        ("cuda", True, False, [64, 16, 4, 1]),
        ("cuda", False, False, [64, 1]),
        ("cpu", True, True, [64]),
    ],
)
def test_sizes_of_a_pass(device, every, exact, sizes):
    """Each may have to be compiled: a GPU has fewer, and a tree that nothing chooses of, itself and a plain pass."""
    target = SimpleNamespace(
        site=SimpleNamespace(pipeline=SimpleNamespace(tree=Tree(nodes=64)), device=torch.device(device)),
        placement=SimpleNamespace(
            predicted=SimpleNamespace(stream_s=1.0, compute_s=2.0), times=StepTimes(Step(0), Step(0))
        ),
        runner=SimpleNamespace(exact=exact),
    )
    assert list(pass_seconds(target, every=every)) == sizes


def test_a_plan_for_a_device_has_room_to_solve_its_draft():
    spec = SimpleNamespace(linears=lambda: {"up": (4096, 1024), "down": (1024, 4096)})
    checkpoint = SimpleNamespace(rules=Rules(()), spec=spec, dtype=torch.bfloat16)
    site = SimpleNamespace(checkpoint=checkpoint, rules=Rules(()))
    assert solving_peak(site, SimpleNamespace(rules=Rules(()), model=None)) == 0
    weights = 4096 * 1024  # of each; the codes of both stay, of four bits and 8 bytes for every 64
    peak = solving_peak(site, SimpleNamespace(rules=Rules.parse("hqq4"), model=None))
    assert peak == weights * 22 + 2 * weights * 5 // 8
