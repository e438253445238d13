"""Our linear for a few rows: torch's numbers, and a row's bits its own."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from specdecodes.models.kernels import cpu_linear

BUILT = pytest.mark.skipif(cpu_linear._library() is None, reason="no AVX512-BF16 or no compiler here")
SHAPES = [(64, 64), (72, 96), (5, 33), (300, 1), (17, 1000)]


def made(out, width, rows, seed=0):
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(out, width, generator=generator).bfloat16()
    return torch.randn(1, rows, width, generator=generator).bfloat16(), weight, weight[:, 0].contiguous()


@BUILT
@pytest.mark.parametrize("biased", [False, True], ids=["plain", "biased"])
@pytest.mark.parametrize(("out", "width"), SHAPES)
def test_equals_the_product_to_half_a_unit_in_the_last_place(out, width, biased):
    for rows in (*range(1, 10), 16, cpu_linear.ROWS):
        x, weight, bias = made(out, width, rows)
        found = cpu_linear.linear(x, weight, bias if biased else None)
        wanted = F.linear(x.double(), weight.double(), bias.double() if biased else None)
        # One rounding to 8 bits, and float sums before it, whose terms may cancel.
        bound = wanted.abs() * 2.0**-8 + width * 2.0**-22
        assert found.dtype == torch.bfloat16 and found.shape == wanted.shape
        assert ((found.double() - wanted).abs() <= bound).all()


@BUILT
@pytest.mark.parametrize(("out", "width"), SHAPES)
def test_a_row_does_not_depend_on_its_neighbours_nor_on_its_place(out, width):
    x, weight, bias = made(out, width, cpu_linear.ROWS)
    alone = torch.cat([cpu_linear.linear(row[None, None], weight, bias) for row in x[0]], 1)
    for rows in (*range(1, 17), 30, 60):
        assert cpu_linear.linear(x[:, :rows], weight, bias).equal(alone[:, :rows])
    assert cpu_linear.linear(x.flip(1), weight, bias).equal(alone.flip(1))


@BUILT
def test_what_is_no_number_stays_none():
    x, weight, _ = made(40, 64, 3)
    x[0, 1, 7], x[0, 2, 3] = float("nan"), float("inf")
    found = cpu_linear.linear(x, weight, None)
    assert found[0, 0].isfinite().all() and found[0, 1].isnan().all() and not found[0, 2].isfinite().any()


@BUILT
@pytest.mark.parametrize(("out", "width"), SHAPES)
def test_a_head_is_its_norm_and_its_product(out, width):
    x, weight, _ = made(out, width, 9)
    norm = torch.rand(width).bfloat16()
    found = cpu_linear.normalized_linear(x, norm, 1e-5, weight)
    inputs = F.rms_norm(x.double(), (width,), norm.double(), 1e-5)
    wanted, sizes = inputs @ weight.double().T, inputs.abs() @ weight.double().abs().T
    assert ((found.double() - wanted).abs() <= 2.0**-8 * (sizes + wanted.abs())).all()  # inputs and it are rounded
    alone = [cpu_linear.normalized_linear(row[None, None], norm, 1e-5, weight) for row in x[0]]
    assert found.equal(torch.cat(alone, 1))


def test_anything_else_is_torchs(monkeypatch):
    x, weight, bias = made(24, 64, 5)
    assert cpu_linear.linear(x.float(), weight.float(), None).equal(F.linear(x.float(), weight.float()))
    wide = x.repeat(1, cpu_linear.ROWS // 5 + 1, 1)
    assert cpu_linear.linear(wide, weight, bias).equal(F.linear(wide, weight, bias))
    monkeypatch.setattr(cpu_linear, "_library", lambda: None)
    assert cpu_linear.linear(x, weight, bias).equal(F.linear(x, weight, bias))
