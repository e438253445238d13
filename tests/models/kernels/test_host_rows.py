"""Rows that a device fetches from host memory are those that torch's own embedding gives."""

from __future__ import annotations

import gc

import pytest
import torch
from torch.nn import functional as F

from specdecodes.models.kernels.host_rows import look_up, page_locked
from tests.interpreted import need_triton
from tests.offload.streaming.device import SimulatedCuda

VOCAB = 97
IDS = torch.tensor([[0, VOCAB - 1, 5, 5], [VOCAB - 1, 0, 42, 5]])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("width", [64, 1024, 1100])
def test_the_kernel_gives_the_rows_of_the_table(width: int, dtype: torch.dtype) -> None:
    """The first and the last, repeated ones, and ids that do not lie side by side."""
    need_triton()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    table = torch.randn(VOCAB, width).to(dtype)
    held = page_locked((VOCAB, width), dtype, device).copy_(table) if device.type == "cuda" else table
    for ids in (IDS, IDS.T, IDS[:, :0]):
        rows = torch.ops.specdecodes.host_rows(ids.to(device), held)
        assert (rows.shape, rows.dtype) == ((*ids.shape, width), dtype)
        assert torch.equal(rows.cpu(), F.embedding(ids, table))


def test_a_compiled_step_calls_the_kernel_as_it_is() -> None:
    need_triton()
    if torch.cuda.is_available():
        pytest.skip("this table is not page-locked")
    table = torch.randn(VOCAB, 64)
    compiled = torch.compile(
        lambda ids, table: torch.relu(torch.ops.specdecodes.host_rows(ids, table)), fullgraph=True, backend="aot_eager"
    )
    assert torch.equal(compiled(IDS, table), torch.relu(F.embedding(IDS, table)))


def test_a_table_elsewhere_is_read_by_the_device_of_the_ids() -> None:
    """Under torch's fake tensors, which know devices and have no numbers."""
    with torch._subclasses.FakeTensorMode():
        ids, table = torch.zeros(2, 4, dtype=torch.int64, device="cuda"), torch.zeros(VOCAB, 64, dtype=torch.bfloat16)
        rows = look_up(ids, table)
    assert (rows.device.type, rows.shape, rows.dtype) == ("cuda", (2, 4, 64), torch.bfloat16)


def test_locked_memory_is_unlocked_when_the_tensor_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = SimulatedCuda(monkeypatch, lockable=1000)
    device = torch.device("cpu")
    assert page_locked((10, 51), torch.bfloat16, device) is None
    table = page_locked((10, 50), torch.bfloat16, device)
    assert table is not None and cuda.registered == {table.data_ptr(): 1000}
    del table
    gc.collect()
    assert not cuda.registered
    cuda.end()
