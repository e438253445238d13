"""Compressed layers in host memory: they rest in their slots as they are stored, and are restored one at a time."""

from __future__ import annotations

import random
import signal
from pathlib import Path

import pytest
import torch

from specdecodes.offload.compression import compressed
from specdecodes.offload.compression.compressed import CompressedLayer, write_layer
from specdecodes.offload.storage.layout import lay_out
from specdecodes.offload.storage.store import ALIGNMENT, TensorSpan
from specdecodes.offload.streaming.slots import State
from specdecodes.offload.streaming.stream import LayerStream
from tests.offload.conftest import MakeGuessed
from tests.offload.streaming.streamed import check_pass, same


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several blocks a layer."""
    monkeypatch.setattr(compressed, "BLOCK_BYTES", 8 * ALIGNMENT)


def write_all(spans: list[dict[str, TensorSpan]], guesses: dict, folder: Path) -> dict[int, CompressedLayer]:
    return {at: write_layer(folder / f"{at}", spans[at], guesses.get(at)) for at in range(len(spans))}


def test_a_slot_is_as_large_as_what_is_stored(make_guessed: MakeGuessed, tmp_path: Path) -> None:
    _, spans, guesses = make_guessed(3, rows=640)
    written = write_all(spans, guesses, tmp_path)
    sizes = [lay_out(layer).nbytes for layer in spans]
    stored = max(sum(block.length for block in layer.blocks) for layer in written.values())
    for slots in (2, 5):
        with LayerStream(spans, slots=slots, compressed=written) as stream:
            assert 0 <= stream.nbytes - slots * stored - max(sizes) < ALIGNMENT
        with LayerStream(spans, slots=slots, compressed={0: written[0]}) as stream:
            assert 0 <= stream.nbytes - slots * max(sizes) - sizes[0] < ALIGNMENT


def test_a_restored_layer_leaves_its_slot_to_the_readers(make_guessed: MakeGuessed, tmp_path: Path) -> None:
    layers, spans, guesses = make_guessed(4)
    with LayerStream(spans, compressed=write_all(spans, guesses, tmp_path)) as stream:
        with stream.layer(0) as tensors:
            stream._bell.wait(lambda: all(slot.state is State.READY for slot in stream._slots))
            assert sorted(slot.turn for slot in stream._slots) == [1, 2] and same(tensors, layers[0])
        waited = stream.counters.wait_seconds
        with stream.layer(1) as tensors:
            assert same(tensors, layers[1]) and stream.counters.wait_seconds > waited


@pytest.mark.parametrize("first", [0, 1, 2])
def test_one_layer_at_a_time_is_restored(make_guessed: MakeGuessed, tmp_path: Path, first: int) -> None:
    """One from a file, one that is kept, one that comes as it is."""
    layers, spans, guesses = make_guessed(3)
    written = {0: write_layer(tmp_path / "0", spans[0], guesses[0])}
    with LayerStream(spans, slots=3, compressed=written, kept=(1,), guesses=guesses) as stream:
        with stream.layer(first) as tensors:
            for second in range(3):
                with pytest.raises(RuntimeError, match="end the `with` block"), stream.layer(second):
                    pass
            assert same(tensors, layers[first])
        check_pass(stream, layers)


def test_weights_at_odd_places_are_moved_once_they_are_restored(tmp_path: Path) -> None:
    """Alone, whatever a substitute says."""
    weight = torch.randn(64, 64, generator=torch.Generator().manual_seed(0)).bfloat16()
    raw = b"\x07" * 333 + weight.view(torch.uint8).numpy().tobytes()
    path = tmp_path / "odd.bin"
    path.write_bytes(raw)
    spans = [
        {"w": TensorSpan("w", torch.bfloat16, (64, 64), path, 333, weight.nbytes)},
        {"w": TensorSpan("w", torch.bfloat16, (32, 64), path, 333, weight.nbytes // 2)},
    ]
    written = {0: write_layer(tmp_path / "0", spans[0])}
    with LayerStream(spans, compressed=written, kept=(1,), dtype=torch.float32) as stream:
        for _ in range(2):
            check_pass(stream, [{"w": weight.float()}, {"w": weight[:32].float()}])


def test_interrupts_at_any_time_leave_the_stream_usable(make_guessed: MakeGuessed, tmp_path: Path) -> None:
    layers, spans, guesses = make_guessed(3, rows=64)
    written = write_all(spans, guesses, tmp_path)
    dice = random.Random(2)

    def interrupt(signal_number: int, frame: object) -> None:
        raise KeyboardInterrupt

    previous = signal.signal(signal.SIGALRM, interrupt)
    try:
        with LayerStream(spans, compressed=written, kept=(0,)) as stream:
            for _ in range(60):
                try:
                    signal.setitimer(signal.ITIMER_REAL, dice.uniform(1e-5, 4e-3))
                    while True:
                        check_pass(stream, layers)
                except KeyboardInterrupt:
                    pass
            check_pass(stream, layers)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
