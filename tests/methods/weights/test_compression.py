"""Compressed streaming end to end: when it is chosen, what is written and told, and the same answers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from specdecodes import native
from specdecodes.config import Draft, Memory, Pipeline, Target, Tree
from specdecodes.errors import BudgetError, CheckpointError, ConfigError
from specdecodes.methods import build, plan_for
from specdecodes.methods.weights import compression
from specdecodes.models.loading import open_checkpoint
from specdecodes.offload.compression.alone import codec
from specdecodes.offload.compression.compressed import layer_path
from specdecodes.offload.planning.plan import Placement
from specdecodes.offload.planning.shape import ALONE, BESIDE
from specdecodes.sampling import SamplingParams
from specdecodes.units import format_bytes

pytestmark = pytest.mark.skipif(native.find_compiler() is None, reason="no C++ compiler")
LARGER = {"num_hidden_layers": 16, "hidden_size": 128, "intermediate_size": 512}  # than the buffers are
LAYERS = range(LARGER["num_hidden_layers"])
ROOM = 64 * 1024  # as written, layers take a little more or less than a sample of them says
PROMPT = tuple(range(3, 40))


@pytest.fixture
def pipeline(tiny_checkpoint: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Pipeline:
    """Streams everything that can stream from disk, in bf16."""
    monkeypatch.setattr(
        "specdecodes.offload.compression.compressed.cache_folder", lambda: tmp_path
    )  # kernels stay where they are
    base = Pipeline(
        "vanilla",
        Target(str(tiny_checkpoint("llama", "bf16", **LARGER)), device="cpu"),
        tree=Tree(width=3, depth=5, nodes=12),
        max_length=128,
        compile=False,
    )
    return replace(base, memory=Memory(device=least(base, least(base, 1)) + ROOM))


def least(pipeline: Pipeline, budget: int) -> int:
    """The least budget above `budget` that the plan does not refuse at once."""
    with pytest.raises(BudgetError) as refused:
        plan_for(replace(pipeline, memory=Memory(device=budget, compress="on")))
    return budget + refused.value.shortfall_bytes


def compressing(pipeline: Pipeline, how: str) -> Pipeline:
    return replace(pipeline, memory=replace(pipeline.memory, compress=how))


def answer(pipeline: Pipeline, told: list[str]) -> tuple[tuple[int, ...], torch.Tensor, int]:
    """Tokens, logits and bytes streamed."""
    rows: list[torch.Tensor] = []
    with build(pipeline, progress=told.append) as generator:
        generation = generator.generate(
            PROMPT, SamplingParams(max_tokens=12, ignore_eos=True), on_logits=lambda logits: rows.append(logits.clone())
        )
    return (
        generation.tokens,
        torch.cat(rows),
        generation.prefill_bytes + sum(r.bytes_streamed for r in generation.rounds),
    )


def plan_row(placement: Placement, start: str) -> tuple[str, str, str]:
    (row,) = [row for row in placement.rows() if row[0].startswith(start)]
    return row


def files_of(pipeline: Pipeline) -> list[Path]:
    folder = compression.folder_of(open_checkpoint(pipeline.target.model))
    return sorted(folder.iterdir()) if folder.exists() else []


def test_on_writes_once_says_so_and_answers_the_same_from_fewer_bytes(pipeline: Pipeline) -> None:
    whole, told = answer(compressing(pipeline, "off"), []), []
    assert not files_of(pipeline)
    compressed = answer(compressing(pipeline, "on"), told)
    assert compressed[0] == whole[0]
    assert compressed[1].view(torch.int16).equal(whole[1].view(torch.int16))
    assert compressed[2] < whole[2]
    assert [text for text in told if "writing" in text and "free there" in text]
    written = {path: path.stat().st_mtime_ns for path in files_of(pipeline)}
    again: list[str] = []
    assert answer(compressing(pipeline, "on"), again)[0] == whole[0]
    assert {path: path.stat().st_mtime_ns for path in files_of(pipeline)} == written
    assert not [text for text in again if "writing" in text]


def test_substitutes_draft_for_a_target_that_comes_compressed(
    pipeline: Pipeline, tiny_checkpoint: Callable[..., Path]
) -> None:
    """Of another checkpoint than the other tests have, since the substitutes are kept."""
    target = Target(str(tiny_checkpoint("llama", "bf16", seed=1, **LARGER)), device="cpu")
    drafted = replace(pipeline, method="subspec_sd", target=target, draft=Draft(quant="hqq4:g32"))
    drafted = replace(drafted, memory=Memory(device=least(drafted, least(drafted, 1)) + ROOM))
    expected = plan_for(compressing(drafted, "on"))
    whole, fewer = (answer(compressing(drafted, how), []) for how in ("off", "on"))
    assert fewer[0] == whole[0] and fewer[1].view(torch.int16).equal(whole[1].view(torch.int16))
    assert fewer[2] < whole[2]
    written = plan_for(compressing(drafted, "on"))
    assert expected.comes_as == written.comes_as == BESIDE and written.compression is not None
    assert (
        "as written" in plan_row(written, "compressed from")[1]
        and "by a sample" in plan_row(expected, "compressed from")[1]
    )
    assert written.bytes_per_pass / written.whole_bytes == pytest.approx(
        expected.bytes_per_pass / expected.whole_bytes, rel=0.03
    )


def test_the_plan_says_what_is_read_and_at_which_ratio(pipeline: Pipeline) -> None:
    build(compressing(pipeline, "on"), progress=lambda text: None).close()
    placement = plan_for(compressing(pipeline, "on"))
    checkpoint = open_checkpoint(pipeline.target.model)
    kept = compression.find_layers(checkpoint, placement.streamed)
    assert placement.bytes_per_pass == sum(layer.nbytes for layer in kept.values())
    share = placement.bytes_per_pass / placement.whole_bytes
    assert plan_row(placement, "compressed from")[2] == f"{share:.1%}"
    assert "as written" in plan_row(placement, "compressed from")[1]
    assert "compressed from" in placement.summary()
    plain = plan_for(compressing(pipeline, "off"))
    assert plain.compression is None and "compressed" not in plain.summary()
    assert plain.bytes_per_pass == plain.whole_bytes


def test_a_damaged_copy_is_written_anew_with_a_notice(pipeline: Pipeline) -> None:
    told: list[str] = []
    expected = answer(compressing(pipeline, "on"), told)
    victim = files_of(pipeline)[0]
    victim.write_bytes(victim.read_bytes()[:-1])
    assert answer(compressing(pipeline, "on"), told)[0] == expected[0]
    assert "1 compressed layer, 1 of them damaged until now" in told[-1] + "".join(told)


def fast(monkeypatch: pytest.MonkeyPatch, gbps: float) -> None:
    """A disk so slow that a pass is all reading, and a core that expands at `gbps`."""
    monkeypatch.setattr("specdecodes.methods.measured.machine._disk_gbps", lambda files: 1e-5)
    monkeypatch.setattr(codec, "core_gbps", lambda cores: gbps)


def test_auto_takes_what_is_written_where_it_is_faster_and_writes_nothing(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    fast(monkeypatch, 10.0)
    asked = replace(pipeline, memory=Memory(device=pipeline.memory.device_bytes + 6 * 512 * 1024))  # six layers
    before = plan_for(asked)
    assert before.kept and not before.comes_as and not files_of(pipeline), "what stays in memory needs no file"
    assert "`run-compress` has written" in plan_row(before, "compression")[1]
    compression.ensure_layers(open_checkpoint(pipeline.target.model), LAYERS, lambda text: None)
    after = plan_for(asked)
    assert after.comes_as == ALONE
    assert after.predicted.tokens_per_second > before.predicted.tokens_per_second
    assert [other for other in after.rejected if other.what == "streamed layers as they are"]
    assert answer(asked, [])[0] == answer(compressing(pipeline, "off"), [])[0]
    fast(monkeypatch, 1e-6)
    slow = plan_for(asked)
    assert slow.compression is None
    assert [other for other in slow.rejected if "compressed alone" in other.what and "slower" in other.why]


def test_auto_streams_what_went_since_the_plan_as_it_is(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    fast(monkeypatch, 10.0)
    asked = compressing(pipeline, "auto")
    compression.ensure_layers(open_checkpoint(pipeline.target.model), LAYERS, lambda text: None)
    placement = plan_for(asked)
    assert placement.compression is not None
    layer_path(compression.folder_of(open_checkpoint(pipeline.target.model)), placement.streamed[0]).unlink()
    with build(asked, placement, progress=lambda text: None) as generator:
        generator.generate(PROMPT, SamplingParams(max_tokens=3, ignore_eos=True))
    assert len(files_of(pipeline)) == len(LAYERS) - 1


def test_on_where_it_cannot_be_is_refused_and_auto_says_why(
    pipeline: Pipeline, tiny_checkpoint: Callable[..., Path]
) -> None:
    wide = replace(pipeline, target=Target(str(tiny_checkpoint("llama", "fp32")), device="cpu"))
    wide = replace(wide, memory=Memory(device=least(wide, 1)))
    with pytest.raises(ConfigError, match="memory.compress is on, but float32 weights are not compressed"):
        plan_for(compressing(wide, "on"))
    assert "float32" in plan_row(plan_for(wide), "compression")[1]


def test_no_room_is_told_before_anything_is_written(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compression.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 10})())
    with pytest.raises(CheckpointError, match=r"no room to write .*: 10 B are free"):
        build(compressing(pipeline, "on"), progress=lambda text: None)
    assert not files_of(pipeline)


def test_a_budget_of_disk_is_kept_to(pipeline: Pipeline) -> None:
    asked = compressing(pipeline, "on")
    whole = answer(asked, [])[0]
    written = sum(file.stat().st_size for file in files_of(pipeline))
    roomy = replace(asked, memory=replace(asked.memory, disk=2 * written))
    rows = {part: size for part, _, size in plan_for(roomy).notes}
    assert rows["compressed layers"] == rows[f"room for copies of a budget of {format_bytes(2 * written)}"]
    assert answer(roomy, [])[0] == whole
    for file in files_of(pipeline):
        file.unlink()
    tight = replace(asked, memory=replace(asked.memory, disk=written // 2))
    with pytest.raises(BudgetError, match=r"compressed copies would take .* of disk, and memory.disk leaves"):
        plan_for(tight)
    with pytest.raises(BudgetError):
        compression.ensure_layers(open_checkpoint(pipeline.target.model), range(10), lambda text: None, room=10)
    assert not files_of(pipeline)


def test_no_memory_for_compressed_bytes_is_an_alternative_not_an_error(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    fast(monkeypatch, 10.0)
    tight = replace(pipeline, memory=Memory(device=pipeline.memory.device_bytes - ROOM - 10))
    placement = plan_for(tight)
    assert not placement.comes_as and placement.streamed
    (other,) = [other for other in placement.rejected if other.what == "streamed layers compressed alone"]
    assert other.tokens_per_second is None and other.why == "10 B over the budget"
    with pytest.raises(BudgetError):
        plan_for(compressing(tight, "on"))
