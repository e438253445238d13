"""Draft precisions: what each costs, how far it is from its target, one row each, and on where a run was stopped."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from specdecodes.benchmark.sweeps import precision
from specdecodes.benchmark.sweeps.grid import Row
from specdecodes.config import Draft, Memory, Pipeline, Target, Tree
from specdecodes.errors import QuantError
from specdecodes.models.loading import open_checkpoint
from specdecodes.quant import SCHEMES, fitted

TRAINED = Path(__file__).resolve().parents[4] / "shared" / "data" / "models" / "babyllama-105-hf"
ODD = TRAINED.with_name("stories260K-hf")  # its feed-forward part is 172 wide, which no group divides
DEMO = Path(__file__).resolve().parents[3] / "assets" / "demo"
STORY = (
    "Once upon a time, there was a little girl named Lily. She loved to play outside in the park. One day, she saw a "
    "big dog near the old tree. The dog was sad because it could not find its ball, so Lily helped the dog to look."
)


def pipeline_for(folder: Path, quant: str = "none") -> Pipeline:
    target = Target(str(folder), device="cpu", quant=quant)
    memory = Memory("2GiB")
    return Pipeline("share_sd", target, Draft(), Tree(2, 3, 6), memory, max_length=128, compile=False, warmup=0)


def test_points_are_plain_decoding_and_every_other_scheme() -> None:
    points = precision.precision_points(replace(pipeline_for(DEMO, "int8"), method="classic_sd", draft=Draft("x")), [])
    assert points[0].pipeline.method == "vanilla" and points[0].name == "draft.quant=int8"
    schemes = [point.pipeline.draft.quant for point in points[1:]]
    assert {"hqq4", "higgs2", "w4a4", "nvfp4"} < set(schemes) and "int8" not in schemes
    assert {point.pipeline.method for point in points[1:]} == {"share_sd"}
    assert points[1].pipeline.draft.model is None
    with pytest.raises(QuantError, match="did you mean 'hqq8'"):
        precision.precision_points(pipeline_for(DEMO), ["hqq5"])


@pytest.mark.parametrize(
    ("width", "spelled"),
    [(352, {"hqq4:g32", "int8", "higgs2:g32", "mxfp4"}), (172, {"hqq4:g32+down_proj=none", "fp8+down_proj=none"})],
)
def test_all_schemes_come_in_groups_that_the_shapes_allow(
    width: int, spelled: set[str], tiny_checkpoint: Callable[..., Path]
) -> None:
    folder = tiny_checkpoint(
        "llama", hidden_size=96, num_attention_heads=3, num_key_value_heads=1, intermediate_size=width
    )
    points = precision.precision_points(pipeline_for(folder), [])
    schemes = {point.pipeline.draft.quant for point in points[1:]}
    assert spelled < schemes and len(schemes) == len(SCHEMES)
    for scheme in schemes:
        assert precision.size_of(points[0].pipeline, scheme).bits_per_weight < 16


def test_sizes_count_scales_and_linears_that_stay(tiny_checkpoint: Callable[..., Path]) -> None:
    pipeline = pipeline_for(tiny_checkpoint("llama", "bf16"))
    assert precision.size_of(pipeline, "none").bits_per_weight == 16.0
    assert precision.size_of(pipeline, "hqq4:g32").bits_per_weight == 4 + 32 / 32
    half = precision.size_of(pipeline, "hqq4:g32+layers.[01]=none")
    assert half.bits_per_weight == (16 + 5) / 2
    assert half.nbytes > precision.size_of(pipeline, "hqq4:g32").nbytes * 2
    with pytest.raises(QuantError, match="groups that divide it"):
        precision.size_of(pipeline, "hqq4:g48")


def test_a_comparison_is_the_divergence_of_the_target_from_the_draft() -> None:
    torch.manual_seed(0)
    target, draft = (torch.randn(20, 50).log_softmax(-1) for _ in range(2))
    tokens = torch.randint(0, 50, (20,))
    found = precision.compare_precision(tokens, target, draft)
    expected = torch.nn.functional.kl_div(draft, target, log_target=True, reduction="batchmean")
    assert found.kl == pytest.approx(float(expected), rel=1e-4) and found.tokens == 20
    nats = -float(target.gather(1, tokens[:, None]).mean())
    assert found.target_perplexity == pytest.approx(torch.tensor(nats).exp().item(), rel=1e-5)
    same = precision.compare_precision(tokens, target, target)
    assert (same.kl, same.agreement) == (0.0, 1.0) and same.perplexity == same.target_perplexity


def test_fidelities_are_kept_and_belong_to_their_text(
    tiny_checkpoint: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    points = precision.precision_points(pipeline_for(tiny_checkpoint("llama")), ["int8:g32", "hqq2:g32", "hqq4:g48"])
    said: list[str] = []
    text = " ".join(f"w{3 + 7 * i % 90}" for i in range(60))
    found = precision.fidelities(points, text, 40, tmp_path, said.append)
    assert sorted(found) == ["draft.quant=hqq2:g32", "draft.quant=int8:g32", "draft.quant=none"]
    assert any("groups of 48" in line for line in said), "what cannot be is told, and the rest goes on"
    assert found["draft.quant=none"].kl == 0.0 < found["draft.quant=int8:g32"].kl < found["draft.quant=hqq2:g32"].kl
    table = precision.table_rows([Row(point, {}) for point in points], found)
    assert [row["scheme"] for row in table] == ["none", "int8:g32", "hqq2:g32", "hqq4:g48"] and table[3]["error"]
    page = precision.markdown(table, ["the command"])
    assert "| none, plain decoding | 32.00 |" in page and page.endswith("- the command\n")
    json.dumps(table)

    monkeypatch.setattr(precision, "log_probabilities", lambda *needs: pytest.fail("it is known"))
    assert precision.fidelities(points[:3], text, 40, tmp_path, said.append) == found
    with pytest.raises(pytest.fail.Exception):
        precision.fidelities(points[:3], text, 39, tmp_path, said.append)


def test_a_text_longer_than_the_context_is_read_in_windows(tiny_checkpoint: Callable[..., Path]) -> None:
    pipeline = replace(pipeline_for(tiny_checkpoint("llama")), max_length=32)
    words = [3 + 7 * i % 90 for i in range(65)]
    text = " ".join(f"w{word}" for word in words)
    following, rows = precision.log_probabilities(pipeline, text, 100)
    assert following.tolist() == words[1:32] + words[33:64], "the 65th has nothing before it in its window"
    alone, its_rows = precision.log_probabilities(pipeline, " ".join(f"w{word}" for word in words[32:64]), 100)
    assert torch.equal(alone, following[31:])
    torch.testing.assert_close(its_rows, rows[31:])


FAMILIES = [("hqq8", "hqq4", "hqq3", "hqq2"), ("higgs4", "higgs3", "higgs2"), ("int8", "int4")]


@pytest.mark.parametrize("folder", [DEMO, TRAINED, ODD], ids=["demo", "babyllama", "stories260K"])
def test_more_bits_of_one_family_are_nearer_to_a_trained_target(folder: Path) -> None:
    """Where theory gives an order: finer grids of one kind. Random weights would say nothing of a model."""
    if not folder.exists():
        pytest.skip(f"{folder} is not here")
    shapes = open_checkpoint(str(folder)).spec.linears()
    rules = {name: fitted(SCHEMES[name], shapes) for family in FAMILIES for name in family}
    points = precision.precision_points(pipeline_for(folder), list(rules.values()))
    tokens, target = precision.log_probabilities(points[0].pipeline, STORY, 96)
    kl = {}
    for name, scheme in rules.items():
        quantized = replace(points[0].pipeline, target=replace(points[0].pipeline.target, quant=scheme))
        draft = precision.log_probabilities(quantized, STORY, 96)[1]
        kl[name] = precision.compare_precision(tokens, target, draft).kl
    for family in FAMILIES:
        assert [kl[name] for name in family] == sorted(kl[name] for name in family), kl
    assert kl["hqq8"] < 0.05 * kl["hqq2"]
