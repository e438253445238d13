"""What restores weights is measured on what comes back right."""

from __future__ import annotations

import argparse

import pytest
import torch

from benchmarks import restoring
from specdecodes import native
from specdecodes.offload.compression.beside.packing import Beside

pytestmark = pytest.mark.skipif(native.find_compiler() is None, reason="no C++ compiler")
GIVEN = argparse.Namespace(mib=1, blocks=2, rounds=1)


@pytest.mark.parametrize("way", ["alone", "beside"])
def test_a_row_of_the_table(way: str) -> None:
    row = restoring.measure(way, 1024, torch.device("cpu"), 2.0, GIVEN)
    assert 0.5 < row["share"] < 0.7 and row["gbps"] > 0
    assert row["times_link"] == pytest.approx(row["gbps"] * row["share"] / 2.0)


def test_other_weights_are_no_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Beside, "expand", lambda packing, block, out: bool(out.zero_().any()))
    with pytest.raises(RuntimeError, match="other weights came back, beside"):
        restoring.measure("beside", 1024, torch.device("cpu"), 0.0, GIVEN)
