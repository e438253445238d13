"""What compressing beside a substitute would take: which linears suit, what is left of them, what a plan tells."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from specdecodes import native
from specdecodes.config import Draft, Memory, Pipeline, Target, Tree
from specdecodes.errors import BudgetError
from specdecodes.methods import plan_for
from specdecodes.methods.weights import offers
from specdecodes.methods.weights.guesses import guesses
from specdecodes.models.decoder import Decoder
from specdecodes.models.loading import open_checkpoint
from specdecodes.offload.compression.alone import codec
from specdecodes.offload.compression.beside import remainder
from specdecodes.offload.planning.shape import ALONE, BESIDE
from specdecodes.offload.storage.store import read_index
from specdecodes.quant import Execution, in_steps, specimen
from specdecodes.quant.spec import find_scheme

pytestmark = pytest.mark.skipif(native.find_compiler() is None, reason="no C++ compiler")
SCHEMES = ("hqq4:g32", "hqq3:g32", "hqq2:g32", "hqq2:g32@w4a32", "hqq8:g32", "int4:g32", "higgs4:g32", "w4a8:g32")


@pytest.fixture(scope="module")
def folder(tiny_checkpoint: Callable[..., Path]) -> Path:
    """With layers larger than what a plan rounds."""
    return tiny_checkpoint("llama", "bf16", num_hidden_layers=32, hidden_size=128, intermediate_size=512)


def drafted(folder: Path, quant: str = "hqq4:g32", **memory: object) -> Pipeline:
    return Pipeline(
        "subspec_sd",
        Target(str(folder), device="cpu"),
        Draft(quant=quant),
        Tree(width=3, depth=5, nodes=12),
        memory=Memory(**memory),
        max_length=128,
        compile=False,
    )


def streaming(pipeline: Pipeline, layers: int) -> Pipeline:
    """With a budget that is `layers` layers above the least that its plan takes."""
    size, device = sum(span.nbytes for span in open_checkpoint(pipeline.target.model).layer(0).values()), 1
    for _ in range(4):
        pipeline = replace(pipeline, memory=replace(pipeline.memory, device=device))
        try:
            plan_for(pipeline)
            break
        except BudgetError as refused:
            device += refused.shortfall_bytes
    return replace(pipeline, memory=replace(pipeline.memory, device=device + layers * size))


@pytest.mark.parametrize("text", SCHEMES)
def test_linears_suit_by_their_scheme_if_a_guess_can_read_them(folder: Path, text: str) -> None:
    spec, execution = open_checkpoint(str(folder)).spec, Execution("cpu", 3)
    scheme = find_scheme(text)
    assert scheme is not None
    layer = Decoder(spec, torch.bfloat16).stack[0]
    layer.substitute({path: specimen(*shape, scheme, execution) for path, shape in spec.linears().items()})
    kernel = execution.choose(scheme).kernel
    suiting = {f"{path}.weight" for path, (_, width) in spec.linears().items() if in_steps(scheme, kernel, width)}
    assert guesses(layer, spec).keys() == suiting
    assert bool(suiting) == (text.partition(":")[0] in ("hqq4", "hqq3", "int4", "w4a8") or "@" in text)


@pytest.mark.parametrize(("text", "share"), [("hqq4", 0.555), ("hqq4:g128", 0.561), ("hqq3", 0.609)])
def test_a_few_rows_say_what_is_left_of_normally_distributed_weights(tmp_path: Path, text: str, share: float) -> None:
    weight = torch.randn(512, 1024, generator=torch.Generator().manual_seed(3)).mul(0.02).bfloat16()
    save_file({"weight": weight}, tmp_path / "model.safetensors")
    spans, scheme = (read_index(tmp_path)["weight"],), find_scheme(text)
    assert scheme is not None
    assert offers.ratio_beside(spans, scheme) == pytest.approx(share, rel=0.01)


def test_why_nothing_is_compressed_beside_the_draft_is_told(folder: Path) -> None:
    for pipeline, reason in (
        (drafted(folder, "hqq8:g32", compress="on"), "hqq8:g32 on w4a8 twice holds no 4-bit codes in even steps"),
        (replace(drafted(folder, compress="on"), method="vanilla"), "no substitute drafts for what streams"),
    ):
        placement = plan_for(streaming(pipeline, 0))
        assert placement.compression is not None and placement.compression.kind == ALONE
        (note,) = [row for row in placement.notes if row[0] == "compression"]
        assert note[1].startswith(f"alone: {reason}") and note[2] == "on"


def test_on_is_beside_the_draft_and_alone_is_not(folder: Path) -> None:
    taken = {}
    for how, kind in (("on", BESIDE), ("alone", ALONE)):
        placement = plan_for(streaming(drafted(folder, compress=how), 0))
        assert placement.compression is not None and placement.compression.kind == kind == placement.comes_as
        taken[kind] = placement.bytes_per_pass / placement.whole_bytes
    assert taken[BESIDE] < taken[ALONE] < 1


def test_auto_weighs_all_ways_and_tells_them(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No file is there, so layers are kept in memory alone, and a row says that they are compressed while loading."""
    monkeypatch.setattr("specdecodes.methods.measured.machine._disk_gbps", lambda files: 1e-5)
    rates = {ALONE: 10.0, BESIDE: 10.0}
    monkeypatch.setattr(codec, "core_gbps", lambda cores: rates[ALONE])
    monkeypatch.setattr(remainder, "core_gbps", lambda cores: rates[BESIDE])
    pipeline = streaming(drafted(folder), 12)
    placement = plan_for(pipeline)
    assert placement.kept and placement.compression is not None and placement.compression.kind == BESIDE
    assert not placement.comes_as
    assert [row for row in placement.rows() if row[0].startswith("compressed while loading: ")]
    told = {
        other.what: other for other in placement.rejected if other.what.startswith(("streamed layers", "layers in"))
    }
    assert told["streamed layers as they are"].why == "slower"
    assert "run-compress writes it" in told["streamed layers compressed beside their substitutes"].why
    rates[BESIDE] = 1e-6
    slow = plan_for(pipeline)
    assert slow.compression is None or slow.compression.kind == ALONE
