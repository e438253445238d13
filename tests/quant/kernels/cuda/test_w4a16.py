"""The Triton kernel against the linear that its codes define: on the GPU, or under triton's interpreter."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from specdecodes.errors import QuantError
from specdecodes.quant.codes import Codes
from specdecodes.quant.kernels.cuda.gemlite import GemliteLinear
from specdecodes.quant.kernels.cuda.w4a16 import W4A16Linear, w4a16_bytes
from specdecodes.quant.solvers.hqq import solve
from tests.interpreted import need_triton

need_triton()
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# Relative to the norm of the result: sums in fp32 alone; then the rounding of the result to its dtype, 2**-9 or 2**-12
# at most for a number, and somewhat less than that over all of them.
SUMS = {torch.float32: 1e-6, torch.bfloat16: 2.0**-9, torch.float16: 2.0**-12}
GRID = 4e-4  # scales and offsets in fp16


def codes_of(out: int, width: int, group: int, seed: int = 0) -> Codes:
    torch.manual_seed(seed)
    return solve(torch.randn(out, width) * 0.02, group=group)


def relative_error(found: Tensor, expected: Tensor) -> float:
    return ((found.cpu().double() - expected.double()).norm() / expected.double().norm()).item()


def kernels_weight(linear: W4A16Linear, codes: Codes) -> Tensor:
    """The weight [out, in] that the kernel's own scales and offsets stand for."""
    scale, offset = (values.T.float().cpu()[..., None] for values in (linear.scale, linear.offset))
    return ((codes.codes().view(*scale.shape[:2], -1).float() - 8) * scale + offset).flatten(1)


@pytest.mark.parametrize("dtype", list(SUMS))
@pytest.mark.parametrize(
    ("rows", "out", "width", "group"),  # the last has a group that lies in both halves
    [(1, 96, 256, 64), (5, 72, 512, 128), (8, 40, 128, 16), (17, 33, 192, 96), (3, 300, 64, 32), (4, 24, 192, 64)],
)
def test_computes_the_linear_of_its_codes(dtype: torch.dtype, rows: int, out: int, width: int, group: int) -> None:
    codes, bias = codes_of(out, width, group), torch.randn(out)
    linear = W4A16Linear(codes, bias, device=DEVICE)
    linear.processors = 3  # splits, also where tests run on one processor
    x = torch.randn(rows, width).to(dtype)
    y = linear(x.to(DEVICE))
    assert (y.dtype, y.shape) == (dtype, (rows, out))
    assert relative_error(y, F.linear(x.float(), kernels_weight(linear, codes), bias)) < SUMS[dtype]
    assert relative_error(y, F.linear(x.float(), codes.dequantize(), bias)) < SUMS[dtype] + GRID


def test_rows_do_not_see_each_other_and_leading_axes_stay() -> None:
    linear = W4A16Linear(codes_of(48, 128, 32), device=DEVICE)
    x = torch.randn(2, 3, 128, device=DEVICE)
    alone = linear(x)[0, 0].clone()
    x.view(6, 128)[1:] *= 1e4
    y = linear(x)
    assert y.shape == (2, 3, 48) and torch.equal(y[0, 0], alone)


def test_groups_of_equal_weights_keep_their_value() -> None:
    linear = W4A16Linear(solve(torch.full((16, 64), 0.0123), group=32), device=DEVICE)
    torch.testing.assert_close(
        linear(torch.eye(64, device=DEVICE)[:3]).cpu(), torch.full((3, 16), 0.0123), rtol=1e-3, atol=0
    )


def test_a_compiled_step_calls_the_kernel_as_it_is() -> None:
    linear = W4A16Linear(codes_of(48, 128, 32), torch.randn(48), device=DEVICE)
    x = torch.randn(4, 128, device=DEVICE)
    compiled = torch.compile(lambda linear, x: torch.relu(linear(x)), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(linear, x), torch.relu(linear(x)))


def test_size_is_exact() -> None:
    linear = W4A16Linear(codes_of(96, 256, 64))
    assert sum(buffer.nbytes for buffer in linear.buffers()) == w4a16_bytes(96, 256, 64)


@pytest.mark.parametrize(
    ("width", "group", "words"), [(64, 8, "multiples of 16, not 8 and 32"), (48, 16, "not 16 and 24")]
)
def test_groups_it_does_not_take(width: int, group: int, words: str) -> None:
    with pytest.raises(QuantError, match=f"layers.0.q_proj.*{words}"):
        W4A16Linear(codes_of(16, width, group), name="layers.0.q_proj")


def test_gemlite_is_given_codes_scales_and_zeros(monkeypatch: pytest.MonkeyPatch) -> None:
    given = {}

    def from_weights(weights: Tensor, scales: Tensor, zeros: Tensor, bias: Tensor | None) -> torch.nn.Module:
        given["weight"] = ((weights.view(*scales.shape, -1) - zeros[..., None]) * scales[..., None]).flatten(1)
        return torch.nn.Identity()

    helper = SimpleNamespace(A16W4_HQQ_INT=lambda device, dtype: SimpleNamespace(from_weights=from_weights))
    monkeypatch.setitem(sys.modules, "gemlite.helper", helper)
    codes = codes_of(16, 64, 32)
    monkeypatch.setattr(Tensor, "to", lambda tensor, place: tensor)  # no device to go to
    linear = GemliteLinear(codes, device="cuda")
    assert torch.equal(given["weight"], codes.dequantize())
    assert linear(torch.ones(1, 64)).shape == (1, 64)


def test_without_gemlite_the_install_line_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gemlite.helper", None)
    with pytest.raises(QuantError, match="pip install gemlite$"):
        GemliteLinear(codes_of(16, 64, 32), device="cuda")
    with pytest.raises(QuantError, match="runs on CUDA, not on cpu"):
        GemliteLinear(codes_of(16, 64, 32), device="cpu")
