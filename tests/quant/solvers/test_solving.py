"""From a weight and a scheme to codes: what that takes of an accelerator."""

from __future__ import annotations

from specdecodes.quant import SCHEMES
from specdecodes.quant.solvers import solving_bytes


def test_it_takes_the_weight_and_numbers_to_work_on() -> None:
    """Schemes that are solved in pieces work on four million weights at a time."""
    found = {name: solving_bytes(18944, 3584, SCHEMES[name], 2) for name in ("hqq4", "higgs3", "w8a8")}
    weight = 2 * 18944 * 3584
    assert found["hqq4"] == found["higgs3"] == weight + 20 * 2**22
    assert found["w8a8"] == 11 * weight
    assert solving_bytes(64, 64, SCHEMES["hqq4"], 2) == 22 * 64 * 64
