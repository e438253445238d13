"""Weights that stream into the device keep their bits, however late the kernels are that read them."""

from __future__ import annotations

import pytest
import torch

from specdecodes.offload.store import ALIGNMENT
from specdecodes.offload.stream_cuda import CudaLayerStream
from tests.offload.conftest import MakeLayers, make_layers  # noqa: F401

BLOCK = 16 * ALIGNMENT


@pytest.mark.parametrize("pinned", [(), (0, 3), (0, 1, 2, 3, 4)])
@pytest.mark.parametrize("slots", [2, 4])
@pytest.mark.parametrize("compress", [None, torch.bfloat16])
def test_bits_behind_slow_kernels(
    request: pytest.FixtureRequest, pinned: tuple[int, ...], slots: int, compress: torch.dtype | None
) -> None:
    make: MakeLayers = request.getfixturevalue("make_layers")
    layers, spans = make(5, rows=50_000)
    device = torch.device("cuda")
    expected = [{name: value.to(device) for name, value in layer.items()} for layer in layers]
    wrong = torch.zeros((), dtype=torch.int64, device=device)
    with CudaLayerStream(
        spans, device=device, pinned=pinned, slots=slots, block_bytes=BLOCK, compress=compress
    ) as stream:
        for turn in range(20):
            for index, wanted in enumerate(expected):
                with stream.layer(index) as tensors:
                    if turn % 2:
                        torch.cuda._sleep(3_000_000)
                    for name, value in wanted.items():
                        wrong += (tensors[name] != value).sum()
        assert wrong.item() == 0
        assert stream.note == ""
        counters = stream.counters
    whole = 20 * sum(value.nbytes for layer in layers for value in layer.values())
    assert counters.bytes_read >= whole * (1.0 if compress is None else 0.6)
    assert counters.read_seconds > 0
