"""The lookup kernel against the linear that its codes define: on the GPU, or under triton's interpreter."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from specdecodes.errors import QuantError
from specdecodes.quant import SCHEMES, Execution
from specdecodes.quant.codes import Solved
from specdecodes.quant.kernels.choice import build_linear, kernel_bytes
from specdecodes.quant.kernels.cuda.lookup import LookupLinear
from specdecodes.quant.kernels.reference import ReferenceLinear
from specdecodes.quant.kernels.twins import twin
from specdecodes.quant.solvers import solve
from specdecodes.quant.spec import find_scheme
from tests.interpreted import need_triton

need_triton()
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
WEIGHT_ONLY = ["int8:g128", "hqq2", "hqq3", "hqq4:g32", "hqq8", "higgs2", "higgs3:g32", "higgs4"]
BOUND = 2e-3  # scales and offsets in fp16, sums in fp32


def relative_error(found: Tensor, expected: Tensor) -> float:
    return ((found.cpu().double() - expected.double()).norm() / expected.double().norm()).item()


@pytest.mark.parametrize("spelled", WEIGHT_ONLY)
@pytest.mark.parametrize(("rows", "out", "width"), [(1, 72, 512), (5, 40, 128), (17, 96, 256)])
def test_computes_the_linear_of_its_codes(spelled: str, rows: int, out: int, width: int) -> None:
    torch.manual_seed(0)
    scheme = find_scheme(spelled)
    assert scheme is not None
    codes, bias = solve(torch.randn(out, width) * 0.02, scheme), torch.randn(out)
    linear = LookupLinear(codes, bias, device=DEVICE)
    linear.processors = 64  # splits, also where tests run on one processor
    x = torch.randn(rows, width)
    y = linear(x.to(DEVICE))
    assert y.shape == (rows, out)
    assert relative_error(y, ReferenceLinear(codes, bias)(x)) < BOUND
    assert sum(b.nbytes for b in linear.buffers()) - bias.nbytes == kernel_bytes(out, width, scheme, "lookup")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_other_dtypes_and_leading_axes(dtype: torch.dtype) -> None:
    codes = solve(torch.randn(48, 256), SCHEMES["higgs3"])
    x = torch.randn(2, 3, 256).to(dtype)
    y = LookupLinear(codes, device=DEVICE)(x.to(DEVICE))
    assert (y.dtype, y.shape) == (dtype, (2, 3, 48))
    assert relative_error(y, ReferenceLinear(codes)(x.float())) < BOUND + 2.0**-8


def test_a_compiled_step_calls_the_kernel_as_it_is() -> None:
    linear = LookupLinear(solve(torch.randn(48, 128), SCHEMES["higgs4"]), torch.randn(48), device=DEVICE)
    x = torch.randn(4, 128, device=DEVICE)
    compiled = torch.compile(lambda linear, x: torch.relu(linear(x)), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(linear, x), torch.relu(linear(x)))


def test_groups_it_does_not_take() -> None:
    with pytest.raises(QuantError, match=r"layers\.0\.q_proj: the lookup kernel.*not 8 and 8; choose.*@reference"):
        LookupLinear(solve(torch.randn(16, 64), replace(SCHEMES["hqq3"], group=8)), name="layers.0.q_proj")


def test_it_is_what_cuda_takes_for_tables_and_odd_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("specdecodes.quant.kernels.choice.missing_triton", lambda: "")
    chosen = {name: Execution("cuda").choose(scheme).kernel for name, scheme in SCHEMES.items()}
    lookups = {name for name, kernel in chosen.items() if kernel == "lookup"}
    assert lookups == {"int8", "hqq2", "hqq3", "hqq8", "higgs2", "higgs3", "higgs4", "w4a16"}
    assert {name for name, kernel in chosen.items() if kernel == "w4a16"} == {"int4", "hqq4"}
    scheme = SCHEMES["higgs2"]
    codes = solve(torch.randn(32, 128), scheme)
    made = build_linear(Solved(codes), scheme, "lookup", "weight", DEVICE)
    x = torch.randn(2, 128)
    assert relative_error(made(x.to(DEVICE)), ReferenceLinear(codes)(x)) < BOUND


def test_a_twin_rounds_its_inputs_on_the_same_tensors() -> None:
    codes, x = solve(torch.randn(40, 128), SCHEMES["w4a16"]), torch.randn(3, 128)
    linear = LookupLinear(codes, device=DEVICE)
    second = twin(linear, "int4")
    assert isinstance(second, LookupLinear) and second.packed.data_ptr() == linear.packed.data_ptr()
    whole, drafted = linear(x.to(DEVICE)), second(x.to(DEVICE))
    assert relative_error(whole, ReferenceLinear(codes)(x)) < BOUND
    assert relative_error(drafted, ReferenceLinear(codes, activations="int4")(x)) < BOUND
    assert relative_error(drafted, whole.cpu()) > 0.02
