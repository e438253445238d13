"""Layers that stay in memory, compressed: nothing of them is read, and their bits come in turn like the others'."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from specdecodes.errors import StreamError
from specdecodes.offload.compression import compressed
from specdecodes.offload.compression.beside.packing import Beside
from specdecodes.offload.compression.compressed import CompressedLayer, write_layer
from specdecodes.offload.storage.files import WeightFiles
from specdecodes.offload.storage.store import ALIGNMENT
from specdecodes.offload.streaming.kept import KeptLayer, kept_blocks
from specdecodes.offload.streaming.stream import LayerStream
from tests.offload.compression.test_compressed import damage
from tests.offload.conftest import MakeGuessed
from tests.offload.streaming.streamed import check_pass, intercept, same


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several blocks a layer."""
    monkeypatch.setattr(compressed, "BLOCK_BYTES", 8 * ALIGNMENT)


@pytest.fixture
def late(monkeypatch: pytest.MonkeyPatch) -> Iterator[random.Random]:
    """Reads and expansions take their time, each its own."""
    dice = random.Random(5)
    expand = Beside.expand

    def slowly(*given: Any) -> bool:
        time.sleep(dice.choice([0, 0, 0.0005, 0.002]))
        return expand(*given)

    monkeypatch.setattr(Beside, "expand", slowly)
    intercept(monkeypatch, lambda: time.sleep(dice.choice([0, 0, 0.0005, 0.002])))
    yield dice


@pytest.mark.parametrize("kept", [(1,), (0, 2), (0, 1, 2, 3)])
@pytest.mark.parametrize("way", ["alone", "beside", "beside, from files"])
def test_a_pass_reads_nothing_of_what_is_kept(
    make_guessed: MakeGuessed, tmp_path: Path, kept: tuple[int, ...], way: str
) -> None:
    layers, spans, guesses = make_guessed(rows=640)
    given = {} if way == "alone" else guesses
    files: dict[int, CompressedLayer] = {}
    if way == "beside, from files":
        files = {at: write_layer(tmp_path / f"{at}", spans[at], guesses[at]) for at in range(3)}
    with LayerStream(spans, compressed=files) as other:
        check_pass(other, layers)
        left = sum(block.needed for at, blocks in enumerate(other._blocks) if at not in kept for block in blocks)
    with LayerStream(spans, readers=3, compressed=files, kept=kept, guesses=given) as stream:
        held = sum(stream._supply.kept[at].nbytes for at in kept)
        assert held < 0.9 * sum(tensor.nbytes for at in kept for tensor in layers[at].values())
        assert stream.nbytes == stream._ring.nbytes + held
        for _ in range(3):
            check_pass(stream, layers)
        assert stream.bytes_per_pass == left
        counters = stream.counters
        assert counters.layers == 12 and (counters.bytes_read > 0) == (counters.read_seconds > 0) == (len(kept) < 4)


@pytest.mark.usefixtures("late")
def test_bits_in_any_order_while_blocks_are_late(make_guessed: MakeGuessed, tmp_path: Path) -> None:
    layers, spans, guesses = make_guessed(6, rows=640)
    files = {at: write_layer(tmp_path / f"{at}", spans[at], guesses[at]) for at in (0, 1)}
    dice = random.Random(1)
    with LayerStream(spans, slots=3, readers=3, compressed=files, kept=(1, 2, 4, 5), guesses=guesses) as stream:
        for turn in range(40):
            index = turn % 6 if turn < 25 else dice.randrange(6)
            with stream.layer(index) as tensors:
                time.sleep(dice.choice([0, 0, 0.002]))
                assert same(tensors, layers[index])


def test_kept_layers_outlive_their_files(make_guessed: MakeGuessed, tmp_path: Path) -> None:
    layers, spans, guesses = make_guessed(2)
    files = {at: write_layer(tmp_path / f"{at}", spans[at], guesses[at]) for at in (0, 1)}
    with LayerStream(spans, compressed=files, kept=(0, 1)) as stream:
        for layer in files.values():
            layer.path.write_bytes(b"")
        check_pass(stream, layers)
        with stream.layer(1) as tensors:
            stream.close()
            assert same(tensors, layers[1])
    with pytest.raises(StreamError, match="this model is closed"), stream.layer(0):
        pass


def test_damage_is_told_when_it_is_read_and_when_it_is_expanded(make_guessed: MakeGuessed, tmp_path: Path) -> None:
    layers, spans, guesses = make_guessed(3, rows=640)
    files = {1: write_layer(tmp_path / "1", spans[1], guesses[1])}
    block = files[1].blocks[2]
    damage(block.path, block.start + block.needed // 2)
    with pytest.raises(StreamError, match=rf"1 is damaged at byte {block.start}"):
        LayerStream(spans, compressed=files, kept=(1,))
    damage(block.path, block.start + block.needed // 2)
    with LayerStream(spans, compressed=files, kept=(1,)) as stream:
        _, content, _ = stream._supply.kept[1].held(stream._blocks[1][2])
        content[content.numel() // 2] ^= 1
        for _ in range(2):
            with pytest.raises(StreamError, match="has changed there; load the model again"):
                check_pass(stream, layers)
        content[content.numel() // 2] ^= 1
        check_pass(stream, layers)


def test_on_a_device_a_layers_blocks_are_one_piece_of_memory(make_guessed: MakeGuessed, tmp_path: Path) -> None:
    """On none that is there: where things would lie, and how long they are."""
    _, spans, guesses = make_guessed(1, rows=640)
    written = write_layer(tmp_path / "0", spans[0], guesses[0])
    host = KeptLayer(kept_blocks(written.blocks, WeightFiles({written.path})), torch.device("cpu"))
    there = KeptLayer(kept_blocks(written.blocks, WeightFiles({written.path})), torch.device("meta"))
    pairs = [(host.held(block), there.held(block)) for block in there.blocks]
    assert len(pairs) > 2 and host.blocks == there.blocks and host.nbytes == there.nbytes
    assert all(one[1].shape == other[1].shape and one[2] == other[2] for one, other in pairs)
    starts = [content.storage_offset() for _, (_, content, _) in pairs]
    assert not any(start % 256 for start in starts) and starts[0] == 0 and sorted(set(starts)) == starts
    assert {content.untyped_storage().nbytes() for _, (_, content, _) in pairs} == {
        starts[-1] + -(-pairs[-1][0][1].numel() // 256) * 256
    }
