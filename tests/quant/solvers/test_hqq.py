"""The solver against the hqq library, and against the problem written out plainly."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from specdecodes.errors import QuantError
from specdecodes.quant.solvers.hqq import solve

MODELS = Path(__file__).resolve().parents[4] / "shared" / "data" / "models"
REAL = {
    "gpt2": MODELS / "gpt2-small-attention-sample" / "gpt2_small_attn_layers_0_5_11.safetensors",
    "stories": MODELS / "stories260K-hf" / "model.safetensors",
}


def random_weights(kind: str) -> Tensor:
    torch.manual_seed(len(kind))
    normal = torch.randn(96, 256)
    return {
        "usual": normal * 0.02,
        "bf16": (normal * 0.02).bfloat16(),
        "heavy": torch.distributions.StudentT(3.0).sample((96, 256)) * 0.02,
        "large": normal * 3,  # residuals large enough to be shrunk
        "uniform": torch.rand(96, 256),
        "tiny": normal * 1e-6,
        "zero": torch.zeros(96, 256),
    }[kind]


def plain_solution(weight: Tensor, group: int) -> tuple[Tensor, Tensor, Tensor]:
    """The same alternation over all groups in every iteration: codes [out, in], scale and zero [out, groups]."""
    w = weight.float().reshape(-1, group)
    low, high = w.min(1, keepdim=True).values, w.max(1, keepdim=True).values
    inverse = torch.where(high - low <= 1e-4, 1.0, 15 / (high - low)).clamp(max=2e4)
    zero, best = -low * inverse, float("inf")
    for _ in range(20):
        codes = torch.round(w * inverse + zero).clamp(0, 15)
        residual = w - (codes - zero) / inverse
        error = residual.abs().double().mean().float().item()
        kept = residual.sign() * (residual.abs() - residual.abs() ** -0.3 / 10).clamp(min=0)
        zero = (codes - (w - kept) * inverse).mean(1, keepdim=True)
        if not error < best:
            break
        best = error
    codes = torch.round(w * inverse + zero).clamp(0, 15).to(torch.uint8)
    return codes.view(weight.shape), (1 / inverse).view(len(weight), -1), zero.view(len(weight), -1)


def library_solution(weight: Tensor, group: int, bits: int = 4) -> tuple[Tensor, Tensor, Tensor]:
    quantize = pytest.importorskip("hqq.core.quantize", reason="the hqq library is not installed")
    codes, meta = quantize.Quantizer.quantize(
        weight.float(), nbits=bits, group_size=group, axis=1, device="cpu", bitpack=False, compute_dtype=torch.float32
    )
    shape = (weight.shape[0], -1)
    return codes.to(torch.uint8).view(weight.shape), meta["scale"].view(shape), meta["zero"].view(shape)


def assert_same(weight: Tensor, group: int, expected: tuple[Tensor, Tensor, Tensor], bits: int = 4) -> None:
    codes, scale, zero = expected
    found = solve(weight, bits=bits, group=group)
    assert found.zero is not None
    assert (found.codes() == codes).float().mean() >= 0.9999
    torch.testing.assert_close(found.scale, scale, rtol=0, atol=0)
    agree = (found.codes() == codes).view(*scale.shape, group).all(2)
    torch.testing.assert_close(found.zero[agree], zero[agree], rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("group", [32, 64, 128])
@pytest.mark.parametrize("kind", ["usual", "bf16", "heavy", "large", "uniform", "tiny", "zero"])
def test_equals_the_plain_alternation(kind: str, group: int) -> None:
    weight = random_weights(kind)
    assert_same(weight, group, plain_solution(weight, group))


@pytest.mark.parametrize("kind", ["usual", "bf16", "heavy", "large", "uniform", "tiny", "zero"])
def test_equals_the_library(kind: str) -> None:
    weight = random_weights(kind)
    assert_same(weight, 64, library_solution(weight, 64))


@pytest.mark.parametrize("bits", [2, 3, 8])
@pytest.mark.parametrize("kind", ["usual", "heavy"])
def test_equals_the_library_at_other_bits(kind: str, bits: int) -> None:
    weight = random_weights(kind)
    assert_same(weight, 64, library_solution(weight, 64, bits), bits)


@pytest.mark.parametrize("model", sorted(REAL))
def test_equals_the_library_on_trained_weights(model: str) -> None:
    if not REAL[model].exists():
        pytest.skip(f"no trained weights at {REAL[model]}")
    checked = 0
    for weight in load_file(REAL[model]).values():
        if weight.ndim == 2 and weight.shape[1] % 64 == 0:
            assert_same(weight, 64, library_solution(weight, 64))
            checked += 1
    assert checked >= 12


def test_the_chunks_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    weight = random_weights("heavy")
    whole = solve(weight)
    monkeypatch.setattr("specdecodes.quant.solvers.hqq.CHUNK_WEIGHTS", 7 * 64)
    pieces = solve(weight)
    assert torch.equal(whole.packed, pieces.packed)
    assert whole.zero is not None and pieces.zero is not None and torch.equal(whole.zero, pieces.zero)


def test_beats_plain_rounding() -> None:
    weight = random_weights("heavy")
    low, high = weight.view(-1, 64).aminmax(dim=1, keepdim=True)
    step = (high - low) / 15
    rounded = torch.round((weight.view(-1, 64) - low) / step) * step + low
    error = (solve(weight).dequantize() - weight).abs().mean()
    assert error < 0.98 * (rounded.view_as(weight) - weight).abs().mean()


def test_fewer_bits_use_fewer_levels() -> None:
    codes = solve(random_weights("usual"), bits=2).codes()
    assert codes.unique().tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_weights_that_are_not_finite_are_named(bad: float) -> None:
    weight = random_weights("usual")
    weight[3, 70] = bad
    with pytest.raises(QuantError, match=r"layers\.3\.up_proj.*NaN or infinite"):
        solve(weight, name="layers.3.up_proj")


def test_a_group_that_does_not_divide_names_those_that_do() -> None:
    with pytest.raises(QuantError, match=r"o_proj: 96 input features.*groups of 64.*32, 16, 8"):
        solve(torch.zeros(4, 96), name="o_proj")


def test_other_bits_are_refused() -> None:
    with pytest.raises(QuantError, match="5 bits; choose 2, 3, 4, 8"):
        solve(torch.zeros(4, 64), bits=5)
