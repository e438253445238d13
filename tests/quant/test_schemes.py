"""Every scheme against full precision and every fused path against the reference, on random and on trained weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors import safe_open
from torch import Tensor

from specdecodes.quant import SCHEMES, Execution, Scheme
from specdecodes.quant.activations import levels_and_steps, rounded
from specdecodes.quant.codes import Codes, Solved
from specdecodes.quant.grids import E2M1, LARGEST_E4M3, lloyd_max, nearest, table
from specdecodes.quant.hadamard import rotate, rotation_of
from specdecodes.quant.kernels.choice import build_linear
from specdecodes.quant.kernels.reference import ReferenceLinear
from specdecodes.quant.solvers import grid_of, solve, specimen_codes

MODELS = Path(__file__).resolve().parents[3] / "shared" / "data" / "models"
GPT2 = MODELS / "gpt2-small-attention-sample" / "gpt2_small_attn_layers_0_5_11.safetensors"
# Of a fused path from the reference, relative to the norm of the result. A draft's inputs in 8 bits: a step of 1/127 of
# the group's largest, so 2**-8 of that at most. A target's: scales and offsets in fp16.
# Without a compiler a draft's inputs have one step a row, which an outlier of 30 coarsens for all of it.
DRAFTED, ROW, EXACTLY = 2e-2, 8e-2, 2e-3
# Of the weights on the grid, relative to their norm, for normal weights: the least and the most that theory allows.
ERROR = {
    "int8": (0.004, 0.009), "w8a8": (0.004, 0.009), "hqq8": (0.003, 0.006), "fp8": (0.02, 0.03),
    "mxfp4": (0.10, 0.13), "nvfp4": (0.08, 0.11), "int4": (0.08, 0.11), "hqq4": (0.08, 0.1), "w4a8": (0.08, 0.1),
    "w4a4": (0.1, 0.16), "w4a16": (0.09, 0.13), "higgs4": (0.085, 0.0975), "hqq3": (0.17, 0.21),
    "higgs3": (0.165, 0.186), "higgs2": (0.32, 0.343),
    "hqq2": (0.38, 0.46),
}  # fmt: skip


def normal_weight(out: int = 128, width: int = 512) -> Tensor:
    torch.manual_seed(0)
    return torch.randn(out, width) * 0.02


def weight_of(codes: Codes) -> Tensor:
    """In the space of the original inputs: the rotation is its own inverse."""
    return rotate(codes.dequantize(), codes.rotation)


def relative_error(found: Tensor, expected: Tensor) -> float:
    return ((found.double() - expected.double()).norm() / expected.double().norm()).item()


@pytest.mark.parametrize("scheme", SCHEMES.values(), ids=str)
def test_the_error_is_what_theory_says(scheme: Scheme) -> None:
    least, most = ERROR[scheme.name]
    weight = normal_weight()
    codes = solve(weight, scheme)
    assert least < relative_error(weight_of(codes), weight) < most
    assert (codes.grid, codes.bits, codes.zero is None) == (grid_of(scheme), scheme.bits, codes.grid != "steps")


def test_more_bits_are_better_in_every_family() -> None:
    for weight in (normal_weight(), torch.distributions.StudentT(3.0).sample((64, 512)) * 0.02):
        errors = {name: relative_error(weight_of(solve(weight, scheme)), weight) for name, scheme in SCHEMES.items()}
        for ladder in (
            ("hqq8", "hqq4", "hqq3", "hqq2"),
            ("higgs4", "higgs3", "higgs2"),
            ("int8", "int4"),
            ("fp8", "nvfp4"),
        ):
            assert sorted(ladder, key=errors.__getitem__) == list(ladder)


def test_rotation_spreads_outliers() -> None:
    """One column a hundred times as large: in its groups a grid without rotation has nothing left for the others."""
    weight = normal_weight()
    weight[:, 7] *= 100
    rest = [column for column in range(512) if column != 7]
    x = torch.randn(64, 512)
    x[:, 7] = 0

    def error(name: str) -> float:
        return relative_error(F.linear(x, weight_of(solve(weight, SCHEMES[name]))), F.linear(x, weight))

    plain = relative_error(weight_of(solve(weight, SCHEMES["mxfp4"]))[:, rest], weight[:, rest])
    assert plain > ERROR["mxfp4"][1] and error("higgs4") < 0.7


def linears_of(weight: Tensor, scheme: Scheme, draft: bool) -> tuple[str, torch.nn.Module, torch.nn.Module]:
    codes = solve(weight, scheme)
    kernel = Execution(rows=5, draft=draft).choose(scheme).kernel
    made = build_linear(Solved(codes), scheme, kernel, "weight", "cpu")
    return kernel, made, ReferenceLinear(codes, activations=scheme.activations)


def bound_of(kernel: str, scheme: Scheme, draft: bool) -> float:
    if scheme.activations or not draft:
        return EXACTLY
    return ROW if kernel == "int8" else DRAFTED


@pytest.mark.parametrize("draft", [True, False], ids=["draft", "target"])
@pytest.mark.parametrize("scheme", SCHEMES.values(), ids=str)
def test_what_runs_here_equals_the_reference(scheme: Scheme, draft: bool) -> None:
    kernel, linear, reference = linears_of(normal_weight(120), scheme, draft)
    x = torch.randn(5, 512)
    x[:, 9] *= 30  # an outlier, as real activations have them
    assert relative_error(linear(x), reference(x)) < bound_of(kernel, scheme, draft), kernel


@pytest.mark.skipif(not GPT2.exists(), reason=f"no trained weights at {GPT2}")
@pytest.mark.parametrize("scheme", SCHEMES.values(), ids=str)
def test_trained_weights_with_outliers(scheme: Scheme) -> None:
    with safe_open(GPT2, framework="pt") as file:
        name = next(
            name
            for name in sorted(file.keys())
            if file.get_slice(name).get_shape()[-1] % 64 == 0 and len(file.get_slice(name).get_shape()) == 2
        )
        weight = file.get_tensor(name).float()
    assert relative_error(weight_of(solve(weight, scheme)), weight) < 1.5 * ERROR[scheme.name][1]
    x = torch.randn(3, weight.shape[1])
    x[:, 7] *= 50
    for draft in (True, False):
        kernel, linear, reference = linears_of(weight, scheme, draft)
        assert relative_error(linear(x), reference(x)) < bound_of(kernel, scheme, draft), kernel


@pytest.mark.parametrize("kind", ["int8", "int4", "fp8", "mxfp4", "nvfp4"])
def test_rows_are_rounded_one_by_one(kind: str) -> None:
    x = torch.randn(4, 128)
    alone = rounded(x, kind)[0].clone()
    x[1:] *= 1e4
    assert torch.equal(rounded(x, kind)[0], alone)
    assert torch.equal(rounded(torch.zeros(2, 128), kind), torch.zeros(2, 128))
    assert torch.equal(rounded(alone[None], kind)[0], alone), "what lies on the grid stays there"


@pytest.mark.parametrize(("kind", "largest"), [("int8", 127), ("int4", 7), ("mxfp4", 12), ("nvfp4", 12)])
def test_levels_are_whole_and_fit_a_byte(kind: str, largest: int) -> None:
    x = torch.randn(6, 128) * torch.logspace(-3, 3, 6)[:, None]
    levels, steps = levels_and_steps(x, kind)
    assert torch.equal(levels, levels.round()) and levels.abs().max() == largest
    assert torch.equal((levels.view(*steps.shape, -1) * steps[..., None]).view_as(x), rounded(x, kind))


def test_mxfp4_is_the_published_layout() -> None:
    """OCP Microscaling 1.0: the scale of a block is two to the exponent of its largest less two; 6 is the largest."""
    block = torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0] * 4)
    weight = torch.cat((block, -block * 2**-5, block * 1.3))[None]
    codes = solve(weight, SCHEMES["mxfp4"])
    assert codes.scale.tolist() == [[1.0, 2**-5, 1.0]]
    assert torch.equal(codes.dequantize()[0, :64], weight[0, :64])
    assert codes.codes()[0, :8].tolist() == list(range(8)) and codes.codes()[0, 33:40].tolist() == list(range(9, 16))
    assert codes.dequantize()[0, 64:].max() == 6.0


def test_nvfp4_scales_are_e4m3_times_one_number() -> None:
    codes = solve(normal_weight(), SCHEMES["nvfp4"])
    mantissa, _ = torch.frexp(codes.scale)
    assert torch.equal(mantissa * 16, (mantissa * 16).round()), "four digits"
    assert codes.scale.max() / codes.scale.min() < LARGEST_E4M3 / 2**-9


def test_fp8_weights_are_e4m3_numbers_times_one_scale_a_row() -> None:
    codes = solve(normal_weight(), SCHEMES["fp8"])
    levels = codes.packed.view(torch.float8_e4m3fn).float()
    assert torch.equal(codes.dequantize(), levels * codes.scale)
    assert levels.abs().amax(1).tolist() == [LARGEST_E4M3] * 128


def test_lloyd_max_levels_are_those_of_the_literature() -> None:
    """Max 1960, table I: levels and mean squared errors for a standard normal variable."""
    known = {
        2: (0.4528, 1.510),
        3: (0.2451, 0.7560, 1.344, 2.152),
        4: (0.1284, 0.3881, 0.6568, 0.9424, 1.256, 1.618, 2.069, 2.733),
    }
    for bits, levels in known.items():
        assert lloyd_max(bits)[2 ** (bits - 1) :] == pytest.approx(levels, abs=6e-4)
        assert lloyd_max(bits) == tuple(-level for level in reversed(lloyd_max(bits)))
    x = torch.randn(400_000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for bits, error in ((2, 0.11748), (3, 0.034548), (4, 0.0094966)):
        levels = torch.tensor(lloyd_max(bits), dtype=torch.float64)
        assert (x - levels[nearest(x, levels)]).square().mean().item() == pytest.approx(error, rel=0.02)


@pytest.mark.parametrize("size", [1, 2, 8, 64, 512])
def test_the_rotation_is_its_own_inverse_and_keeps_lengths(size: int) -> None:
    x = torch.randn(3, 1024)
    turned = rotate(x, size)
    torch.testing.assert_close(rotate(turned, size), x)
    torch.testing.assert_close(turned.norm(), x.norm())
    if size > 1:
        spike = torch.zeros(1, 1024)
        spike[0, size - 1] = 1.0
        assert torch.allclose(rotate(spike, size)[0, :size].abs(), torch.full((size,), size**-0.5))


def test_rows_are_rotated_in_the_largest_pieces_that_fit() -> None:
    assert [rotation_of(width) for width in (4096, 14336, 18944, 1536, 96)] == [512, 512, 512, 512, 32]


@pytest.mark.parametrize("scheme", SCHEMES.values(), ids=str)
def test_specimens_have_the_form_of_solved_codes(scheme: Scheme) -> None:
    solved, made = solve(normal_weight(), scheme), specimen_codes(128, 512, scheme, torch.device("cpu"))
    assert (made.packed.shape, made.scale.shape, made.zero is None) == (
        solved.packed.shape,
        solved.scale.shape,
        solved.zero is None,
    )
    assert (made.bits, made.grid, made.rotation) == (solved.bits, solved.grid, solved.rotation)
    assert made.dequantize().isfinite().all()


def test_the_table_of_e2m1_has_sixteen_numbers() -> None:
    assert table(E2M1).tolist()[:8] == [0, 0.5, 1, 1.5, 2, 3, 4, 6]
