from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from specdecodes.errors import QuantError
from specdecodes.quant import SCHEMES, Execution, Rules, choose_kernels
from specdecodes.quant.kernels.cuda.flute import FluteLinear
from specdecodes.quant.kernels.reference import ReferenceLinear
from specdecodes.quant.solvers import solve


def test_without_flute_the_install_line_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "flute", None)
    codes = solve(torch.randn(16, 64), SCHEMES["higgs4"])
    with pytest.raises(QuantError, match="needs FLUTE: pip install flute-kernel; or leave @flute away"):
        FluteLinear(codes, device="cuda")
    with pytest.raises(QuantError, match="runs on CUDA, not on cpu"):
        FluteLinear(codes, device="cpu")


def test_flute_is_given_codes_levels_and_scales(monkeypatch: pytest.MonkeyPatch) -> None:
    given = {}

    def prepare(
        codes: Tensor, scale: Tensor, grid: Tensor, bits: int, group: int, vector: int, *more: object
    ) -> object:
        given.update(weight=(grid[:, 0][codes.int()].view(*scale.shape, group) * scale[..., None]).flatten(1))
        return codes, scale, grid, grid, SimpleNamespace(template_id=1, num_sms=2)

    def qgemm(rows: Tensor, *more: object) -> Tensor:
        return rows @ given["weight"].T

    monkeypatch.setitem(sys.modules, "flute", SimpleNamespace(qgemm=qgemm))
    monkeypatch.setitem(sys.modules, "flute.integrations.higgs", SimpleNamespace(prepare_data_transposed=prepare))
    workspace = SimpleNamespace(make_workspace_streamk=lambda device: torch.zeros(1))
    monkeypatch.setitem(sys.modules, "flute.utils", workspace)
    codes, bias = solve(torch.randn(16, 64), SCHEMES["higgs3"]), torch.randn(16)
    x = torch.randn(2, 3, 64)
    expected = ReferenceLinear(codes, bias)(x)
    to = Tensor.to
    monkeypatch.setattr(
        Tensor, "to", lambda tensor, *kinds: to(tensor, *(k for k in kinds if k != torch.device("cuda")))
    )
    found = FluteLinear(codes, bias, device="cuda", dtype=torch.float32)(x)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("spelled", ["higgs4@flute", "hqq4@gemlite"])
def test_a_target_does_not_run_on_sums_of_any_order(spelled: str) -> None:
    rules, kernel = Rules.parse(spelled), spelled.partition("@")[2]
    assert choose_kernels(rules, Execution("cuda")).kernel == kernel
    with pytest.raises(QuantError, match=f"a target cannot run on it; leave @{kernel} away"):
        choose_kernels(rules, Execution("cuda", draft=False))


def test_flute_runs_its_own_grids_alone() -> None:
    with pytest.raises(QuantError, match="the flute kernel does not run hqq4"):
        choose_kernels(Rules.parse("hqq4@flute"), Execution("cuda"))
