"""Weights that stream into the device keep their bits, however late the kernels are that read them."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest
import torch

from specdecodes.offload.storage.store import ALIGNMENT
from specdecodes.offload.streaming.landings import stream_beside
from specdecodes.offload.streaming.stream_cuda import CudaLayerStream
from tests.offload.conftest import MakeGuessed, MakeLayers, make_guessed, make_layers  # noqa: F401

BLOCK = 16 * ALIGNMENT


@pytest.mark.parametrize("pinned", [(), (0, 3), (0, 1, 2, 3, 4)])
@pytest.mark.parametrize("slots", [2, 4])
@pytest.mark.parametrize("compress", [False, True])
def test_bits_behind_slow_kernels(
    request: pytest.FixtureRequest, pinned: tuple[int, ...], slots: int, compress: bool
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
    assert counters.bytes_read >= whole * (0.6 if compress else 1.0)
    assert counters.read_seconds > 0


@pytest.mark.parametrize("pinned", [(), (0, 3), (0, 2, 3)])
def test_bits_of_what_is_restored_beside_a_substitute(request: pytest.FixtureRequest, pinned: tuple[int, ...]) -> None:
    """Two layers are kept on the device; the rest comes from its host, or from disk."""
    make: MakeGuessed = request.getfixturevalue("make_guessed")
    layers, spans, guesses = make(5, rows=32_768, layout="halves")
    device = torch.device("cuda")
    there = {
        place: {
            name: replace(
                guess, packed=guess.packed.to(device), scale=guess.scale.to(device), offset=guess.offset.to(device)
            )
            for name, guess in known.items()
        }
        for place, known in guesses.items()
    }
    expected = [{name: value.to(device) for name, value in layer.items()} for layer in layers]
    wrong = torch.zeros((), dtype=torch.int64, device=device)
    with CudaLayerStream(
        spans, device=device, pinned=pinned, kept=(1, 4), guesses=there, block_bytes=BLOCK, compress=True
    ) as stream:
        for turn in range(20):
            for index, wanted in enumerate(expected):
                with stream.layer(index) as tensors:
                    if turn % 2:
                        torch.cuda._sleep(3_000_000)
                    for name, value in wanted.items():
                        wrong += (tensors[name] != value).sum()
        assert wrong.item() == 0
        assert stream.counters.bytes_read <= 21 * stream.bytes_per_pass


def test_a_few_numbers_arrive_beside_weights_on_their_way() -> None:
    """An accepted path goes to the device while the next pass's layers do; behind them it would wait for a layer."""
    host, copies = torch.empty(256 * 2**20, dtype=torch.uint8).pin_memory(), torch.cuda.Stream()
    device = torch.empty_like(host, device="cuda")
    torch.cuda.synchronize()
    started = time.perf_counter()
    with torch.cuda.stream(copies):
        for _ in range(8):
            device.copy_(host, non_blocking=True)
    path = torch.tensor([0, 3, 7], device="cuda")
    torch.cuda.current_stream().synchronize()
    few = time.perf_counter() - started
    torch.cuda.synchronize()
    whole = time.perf_counter() - started
    assert path.tolist() == [0, 3, 7]
    assert few < whole / 4, f"{1e3 * few:.1f} ms of {1e3 * whole:.1f}"


def test_copies_are_on_streams_that_nothing_is_recorded_on() -> None:
    """Torch hands out the streams of a priority again and again."""
    beside = {stream_beside(torch.device("cuda")).cuda_stream for _ in range(100)}
    assert beside.isdisjoint({torch.cuda.Stream().cuda_stream for _ in range(100)})
