"""The exact attention of static shapes that a GPU runs, against the one that knows its window."""

from __future__ import annotations

import pytest
import torch

from specdecodes.models.kernels import attention
from specdecodes.models.kernels.attention import attend, reads_there


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize(("start", "stop"), [(0, 40), (7, 33), (13, 14)])
def test_all_slots_give_the_bits_of_the_window(start: int, stop: int, dtype: torch.dtype) -> None:
    """Whatever lies outside of it, no numbers included."""
    torch.manual_seed(start)
    rows, slots = 5, torch.tensor([start, stop - 1, 0, 39, 20])
    query, key, value = (torch.randn(1, rows, heads, 16, dtype=dtype) for heads in (4, 2, 2))
    mask = torch.rand(1, rows, 45) < 0.6
    mask[:, :, 0] = True
    outside = torch.ones(40, dtype=torch.bool)
    outside[start:stop] = False
    caches = [torch.randn(1, 2, 40, 16, dtype=dtype).masked_fill(outside[:, None], torch.inf) for _ in range(2)]
    given = (mask, torch.tensor([start, stop]), 0.25)
    wanted = attend(query, key, value, *caches, slots, *given, True)  # which writes the rows
    found = attention._attend_everywhere(query, *caches, *given)
    assert found.equal(wanted) and wanted.isfinite().all()


def test_a_long_cache_is_gone_through_by_its_window(monkeypatch: pytest.MonkeyPatch) -> None:
    assert reads_there(True, 2600) and not reads_there(True, 33000)
    monkeypatch.setattr(attention, "missing_triton", lambda: "no triton")
    assert reads_there(True, 2600) and not reads_there(False, 2600)
