from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from specdecodes.quant import SCHEMES
from specdecodes.quant.kernels.cuda.gemlite import GemliteLinear
from specdecodes.quant.kernels.cuda.lookup import LookupLinear
from specdecodes.quant.kernels.cuda.tuning import Split, tune
from specdecodes.quant.kernels.cuda.w4a16 import W4A16Linear
from specdecodes.quant.solvers import solve


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SPECDECODES_CACHE", str(tmp_path))
    return tmp_path


def linears() -> list[torch.nn.Module]:
    made: list[torch.nn.Module] = []
    for out in (64, 64, 128):
        made.append(W4A16Linear(solve(torch.randn(out, 1024), SCHEMES["hqq4"])))
        made.append(LookupLinear(solve(torch.randn(out, 1024), SCHEMES["higgs3"])))
    for linear in made:
        linear.processors = 8
    return [*made, torch.nn.Identity()]


def test_a_shape_is_timed_once_and_kept() -> None:
    calls: list[tuple[int, int]] = []

    def seconds(linear: Split, rows: int) -> float:
        calls.append((linear.out_features, linear.splits(rows)))
        return abs(linear.splits(rows) - 2)

    first = linears()
    assert tune(first, 8, seconds=seconds, machine="a GPU") == 4, "two kinds of two shapes"
    assert {linear.splits(8) for linear in first if isinstance(linear, Split)} == {2}
    assert len(calls) >= 8
    calls.clear()
    again = linears()
    assert tune(again, 8, seconds=seconds, machine="a GPU") == 0 and not calls
    assert {linear.tuned[8] for linear in again if isinstance(linear, Split)} == {2}
    assert tune(linears(), 8, seconds=seconds, machine="another GPU") == 4
    assert tune(linears(), 1, seconds=seconds, machine="a GPU") == 4


def test_a_broken_file_is_timed_anew(own_cache: Path) -> None:
    (own_cache / "kernels").mkdir()
    (own_cache / "kernels" / "tuned.json").write_text("{broken")
    assert tune(linears(), 8, seconds=lambda linear, rows: 1.0, machine="a GPU") == 4


def test_nothing_to_tune_asks_nothing() -> None:
    assert tune([torch.nn.Identity()], 8) == 0


def test_gemlite_tunes_itself_before_anything_is_measured(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    gemlite = SimpleNamespace(
        load_config=lambda path: told.append("load"), cache_config=lambda path: Path(path).touch()
    )
    monkeypatch.setitem(sys.modules, "gemlite", gemlite)
    linear = GemliteLinear.__new__(GemliteLinear)
    torch.nn.Module.__init__(linear)
    linear.in_features, linear.out_features, linear.dtype = 64, 16, torch.float32
    linear.linear = torch.nn.Identity()
    linear.register_forward_pre_hook(lambda module, inputs: told.append("call"))
    zeros = torch.zeros
    monkeypatch.setattr(torch, "zeros", lambda *shape, device, dtype: zeros(*shape, dtype=dtype))  # no device here
    tune([linear], 4)
    tune([linear], 4)
    assert told == ["call", "load", "call"]
