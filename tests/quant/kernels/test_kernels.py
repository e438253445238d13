"""Every kernel computes the linear that its codes define, and one compiled step serves all layers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend

from specdecodes.errors import QuantError
from specdecodes.quant.codes import Codes
from specdecodes.quant.kernels.cpu.int4 import Int4Linear, int4_bytes
from specdecodes.quant.kernels.cpu.int8 import Int8Linear, int8_bytes
from specdecodes.quant.kernels.cpu.lanes import lanes_bytes
from specdecodes.quant.kernels.cpu.w4a8 import W4A8Linear, support
from specdecodes.quant.kernels.cpu.w4a32 import W4A32Linear
from specdecodes.quant.kernels.reference import ReferenceLinear, reference_bytes
from specdecodes.quant.solvers import solve as solve_scheme
from specdecodes.quant.solvers.hqq import solve
from specdecodes.quant.spec import find_scheme

BUILT = pytest.mark.skipif(not support().variant, reason=support().note)
OWN = [pytest.param(kernel, marks=BUILT) for kernel in (W4A8Linear, W4A32Linear)]
KERNELS = [ReferenceLinear, Int4Linear, Int8Linear, *OWN]
# What is rounded: nothing; activations, scales and results to bf16; activations and weights to 8 bits; scales to fp16.
TOLERANCE = {ReferenceLinear: 1e-5, Int4Linear: 5e-3, Int8Linear: 2e-2, W4A8Linear: 1e-2, W4A32Linear: 1e-3}

Kernel = Callable[[Codes, Tensor | None], nn.Module]


def codes_of(out: int = 96, width: int = 256, group: int = 64, seed: int = 0) -> Codes:
    torch.manual_seed(seed)
    return solve(torch.randn(out, width) * 0.02, group=group)


def solved(weight: Tensor, scheme: str) -> Codes:
    found = find_scheme(scheme)
    assert found is not None
    return solve_scheme(weight, found)


def relative_error(found: Tensor, expected: Tensor) -> float:
    return ((found.float() - expected).norm() / expected.norm()).item()


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("rows", [1, 2, 5, 17])
@pytest.mark.parametrize("with_bias", [False, True])
def test_computes_the_linear_of_its_codes(kernel: Kernel, rows: int, with_bias: bool) -> None:
    codes = codes_of()
    bias = torch.randn(96) if with_bias else None
    x = torch.randn(rows, 256)
    assert relative_error(kernel(codes, bias)(x), F.linear(x, codes.dequantize(), bias)) < TOLERANCE[kernel]


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_keeps_dtype_and_leading_axes(kernel: Kernel, dtype: torch.dtype) -> None:
    codes, bias = codes_of(), torch.randn(96, dtype=dtype)
    x = torch.randn(2, 3, 256).to(dtype)
    y = kernel(codes, bias)(x)
    assert (y.dtype, y.shape) == (dtype, (2, 3, 96))
    assert relative_error(y, F.linear(x.float(), codes.dequantize(), bias.float())) < TOLERANCE[kernel] + 5e-3


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize(("out", "width", "group"), [(8, 64, 64), (72, 128, 32), (300, 512, 128), (16, 256, 256)])
def test_odd_shapes(kernel: Kernel, out: int, width: int, group: int) -> None:
    codes = codes_of(out, width, group)
    x = torch.randn(3, width)
    y = kernel(codes, None)(x)
    assert y.shape == (3, out)
    assert relative_error(y, F.linear(x, codes.dequantize())) < TOLERANCE[kernel]


@pytest.mark.parametrize("kernel", KERNELS)
def test_rows_do_not_see_each_other(kernel: Kernel) -> None:
    """A huge neighbour would spoil a row if activations shared one scale."""
    linear = kernel(codes_of(), None)
    x = torch.randn(4, 256)
    alone = linear(x)[0].clone()
    x[1:] *= 1e4
    assert torch.equal(linear(x)[0], alone)


@pytest.mark.parametrize("kernel", KERNELS)
def test_zero_rows_give_the_bias(kernel: Kernel) -> None:
    bias = torch.randn(96)
    torch.testing.assert_close(kernel(codes_of(), bias)(torch.zeros(2, 256)), bias.expand(2, -1))


@pytest.mark.parametrize("kernel", KERNELS)
def test_one_compilation_serves_every_layer(kernel: Kernel) -> None:
    def step(linear: nn.Module, x: Tensor) -> Tensor:
        return torch.relu(linear(torch.sin(x)))

    torch._dynamo.reset()
    counter = CompileCounterWithBackend("inductor")
    compiled = torch.compile(step, fullgraph=True, dynamic=False, backend=counter)
    for seed in range(4):
        linear = kernel(codes_of(seed=seed), torch.randn(96))
        x = torch.randn(5, 256)
        torch.testing.assert_close(compiled(linear, x), step(linear, x), rtol=2e-2, atol=1e-3)
    assert counter.frame_count == 1


def test_sizes_are_exact() -> None:
    for out, width, group in [(96, 256, 64), (72, 128, 32)]:
        codes = codes_of(out, width, group)
        assert held_bytes(Int4Linear(codes)) == int4_bytes(out, width, group)
        assert not support().variant or held_bytes(W4A8Linear(codes)) == lanes_bytes(out, width, group)
        assert held_bytes(ReferenceLinear(codes)) == reference_bytes(out, width, group)
        opaque = Int8Linear(codes)
        assert int8_bytes(out, width) == opaque.packed.numel() + opaque.scale.nbytes + opaque.zero.nbytes


def held_bytes(linear: nn.Module) -> int:
    return sum(buffer.nbytes for buffer in linear.buffers())


def test_int4_names_the_groups_it_takes() -> None:
    with pytest.raises(QuantError, match=r"layers\.0\.q_proj.*32, 64, 128 or 256, not 16"):
        Int4Linear(codes_of(group=16), name="layers.0.q_proj")


@BUILT
@pytest.mark.parametrize("kernel", OWN)
@pytest.mark.parametrize("variant", range(1, support().variant + 1))
@pytest.mark.parametrize("scheme", ["hqq4:g8", "hqq4", "higgs4", "mxfp4", "hqq2:g16", "higgs2"])
def test_every_variant_of_the_own_kernels_agrees(kernel: Kernel, variant: int, scheme: str) -> None:
    """Any number of rows and of blocks, one plain loop as the measure."""
    torch.manual_seed(0)
    codes = solved(torch.randn(16 * 9, 128) * 0.02, scheme)
    linear, plain = kernel(codes, variant=variant), kernel(codes, variant=1)
    for rows in (*range(1, 10), 17):
        x = torch.randn(rows, 128)
        torch.testing.assert_close(linear(x), plain(x), rtol=1e-5, atol=1e-6)


@BUILT
@pytest.mark.parametrize("scheme", ["hqq4", "higgs4", "hqq2"])
def test_a_row_of_the_integer_kernel_does_not_depend_on_how_many_there_are(scheme: str) -> None:
    linear = W4A8Linear(solved(torch.randn(16 * 9, 128) * 0.02, scheme))
    x = torch.randn(17, 128)
    whole = linear(x)
    for rows in range(1, 17):
        assert linear(x[:rows]).equal(whole[:rows])
        assert linear(x[17 - rows :]).equal(whole[17 - rows :])


@BUILT
@pytest.mark.parametrize("scheme", ["hqq2", "hqq2:g8", "higgs2"])
def test_codes_of_two_bits_are_held_in_two_where_groups_allow(scheme: str) -> None:
    torch.manual_seed(0)
    codes = solved(torch.randn(16 * 9 + 5, 256) * 0.02, scheme)
    linear, wide = W4A8Linear(codes, torch.randn(149)), W4A8Linear(codes.widened())
    assert held_bytes(linear) - 149 * 4 == lanes_bytes(
        149, 256, codes.group, codes.grid, bits=2 if codes.group > 8 else 4
    )
    assert linear.packed.nbytes * (2 if codes.group > 8 else 1) == wide.packed.nbytes
    for rows in (1, 3, 4, 8, 11):
        x = torch.randn(rows, 256)
        torch.testing.assert_close(linear(x) - linear.bias, wide(x), rtol=1e-5, atol=1e-6)


@BUILT
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_row_of_the_float_kernel_does_not_depend_on_how_many_there_are(dtype: torch.dtype) -> None:
    linear = W4A32Linear(codes_of(16 * 9))
    x = torch.randn(17, 256, dtype=dtype)
    whole = linear(x)
    for rows in range(1, 17):
        assert torch.equal(linear(x[:rows]), whole[:rows])


@BUILT
@pytest.mark.parametrize(("scheme", "given"), [("hqq4:g8", True), ("w4a16", False), ("mxfp4", False), ("hqq2", False)])
def test_bf16_is_multiplied_as_it_is(scheme: str, given: bool) -> None:
    """The sums of the same products, in fp32, in another order; no input and no value is rounded on the way."""
    torch.manual_seed(0)
    codes = solved(torch.randn(16 * 9, 256) * 0.02, scheme)
    if given and codes.zero is not None:
        codes = replace(codes, scale=codes.scale.half().float(), zero=codes.zero.half().float())
    linear = W4A32Linear(codes, as_given=given)
    for rows in (1, 2, 3, 4, 8, 13):
        x = torch.randn(rows, 256, dtype=torch.bfloat16)
        inputs = linear.rows(x, torch.bfloat16)
        product = torch.ops.specdecodes.w4a32_matmul
        held = (linear.scale, linear.offset, linear.packed, linear.values, linear.zeros, linear.variant)
        wide, short = product(inputs.float(), *held), product(inputs, *held)
        torch.testing.assert_close(short, wide, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(linear(x), short[:, : linear.out_features].bfloat16())


@BUILT
def test_values_that_bf16_does_not_hold_are_multiplied_in_fp32() -> None:
    assert not W4A32Linear(solved(torch.randn(16, 256) * 0.02, "higgs4")).short


@BUILT
def test_two_ways_to_run_one_linear_share_its_memory() -> None:
    """What QSpec drafts with and what it verifies with: the same weights, once in memory."""
    torch.manual_seed(0)
    codes = solved(torch.randn(96, 256) * 0.02, "w4a4")
    draft = W4A8Linear(codes, torch.randn(96), activations="int4")
    target = W4A32Linear.sharing(draft)
    assert {b.data_ptr() for b in target.buffers()} == {b.data_ptr() for b in draft.buffers()}
    x = torch.randn(3, 256)
    assert torch.equal(target(x), W4A32Linear(codes, draft.bias)(x))
    x = torch.randn(32, 256)
    assert 0.02 < relative_error(draft(x) - draft.bias, target(x) - draft.bias) < 0.3


@BUILT
def test_a_huge_activation_coarsens_its_group_alone() -> None:
    codes = codes_of()
    x = torch.randn(1, 256)
    x[0, 3] = 1000.0
    outside = x.clone()
    outside[0, :64] = 0.0
    own, per_row = W4A8Linear(codes), Int8Linear(codes)
    inside = x - outside
    expected = F.linear(outside, codes.dequantize())
    assert relative_error(own(x) - own(inside), expected) < 1e-2
    assert relative_error(per_row(x) - per_row(inside), expected) > 0.1


@BUILT
def test_numbers_that_are_not_finite_come_out_as_nan() -> None:
    x = torch.zeros(3, 256)
    x[0, 5], x[1, 200] = float("nan"), float("inf")
    y = W4A8Linear(codes_of())(x)
    assert y[:2].isnan().all() and torch.equal(y[2], torch.zeros(96))


@BUILT
def test_threads_do_not_change_the_own_kernel() -> None:
    codes = codes_of(out=480, width=512)
    x = torch.randn(4, 512)
    linear = W4A8Linear(codes)
    alone = linear(x)
    torch.set_num_threads(2)
    try:
        assert torch.equal(linear(x), alone)
    finally:
        torch.set_num_threads(1)


@pytest.mark.parametrize("kernel", [Int4Linear, Int8Linear, *OWN])
def test_blocks_pack_like_the_whole(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    codes = codes_of(out=200, width=64)
    x = torch.randn(3, 64)
    whole = kernel(codes, None)(x)
    monkeypatch.setattr("specdecodes.quant.codes.BLOCK_WEIGHTS", 64 * 64)
    assert len(codes.row_blocks()) == 4
    assert torch.equal(kernel(codes, None)(x), whole)
