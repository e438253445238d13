"""Layers kept compressed: what streams is what the checkpoint holds, and a file that is not whole is never believed."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from specdecodes import native
from specdecodes.errors import CheckpointError, StreamError
from specdecodes.offload.compression import compressed
from specdecodes.offload.compression.compressed import CompressedLayer, open_layer, write_layer
from specdecodes.offload.storage.layout import lay_out
from specdecodes.offload.storage.store import ALIGNMENT, TensorSpan
from specdecodes.offload.streaming.stream import LayerStream
from tests.offload.conftest import MakeLayers
from tests.offload.streaming.streamed import check_pass, intercept, same

pytestmark = pytest.mark.skipif(native.find_compiler() is None, reason="no C++ compiler")


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several blocks a layer."""
    monkeypatch.setattr(compressed, "BLOCK_BYTES", 8 * ALIGNMENT)


def write_all(spans: list[Mapping[str, TensorSpan]], folder: Path) -> dict[int, CompressedLayer]:
    return {place: write_layer(compressed.layer_path(folder, place), layer) for place, layer in enumerate(spans)}


def damage(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 0x10
    path.write_bytes(content)


@pytest.mark.parametrize("some", [False, True])
def test_passes_bring_the_files_bits_from_fewer_bytes(make_layers: MakeLayers, tmp_path: Path, some: bool) -> None:
    layers, spans = make_layers(rows=3000)
    written = write_all(spans, tmp_path / "made")
    with LayerStream(spans) as plain:
        expected = plain.bytes_per_pass
    kept = {place: layer for place, layer in written.items() if place % 2 == 0 or not some}
    with LayerStream(spans, readers=3, compressed=kept) as stream:
        for _ in range(3):
            check_pass(stream, layers)
        assert stream.bytes_per_pass < (0.9 if some else 0.75) * expected
        assert stream.counters.bytes_read >= 3 * stream.bytes_per_pass
        assert stream.nbytes > plain.nbytes


def test_random_delays_and_order_never_show_wrong_bits(
    make_layers: MakeLayers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layers, spans = make_layers(6, rows=1500)
    written = write_all(spans, tmp_path)
    dice = random.Random(0)
    intercept(monkeypatch, lambda: time.sleep(dice.choice([0, 0, 0.0005, 0.002])))
    with LayerStream(spans, readers=3, compressed=written) as stream:
        for turn in range(40):
            index = turn % len(layers) if turn < 25 else dice.randrange(len(layers))
            with stream.layer(index) as tensors:
                time.sleep(dice.choice([0, 0, 0.003]))
                assert same(tensors, layers[index])


def test_a_file_is_found_again_and_is_the_layers_own(make_layers: MakeLayers, tmp_path: Path) -> None:
    _, spans = make_layers(2)
    path = tmp_path / "folder" / "a.weights"
    assert open_layer(path, spans[0]) is None
    written = write_layer(path, spans[0])
    assert open_layer(path, spans[0]) == written
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    with pytest.raises(CheckpointError, match="not this checkpoint's layer"):
        open_layer(path, spans[1])


@pytest.mark.parametrize("fault", ["cut", "short", "header"])
def test_a_file_that_is_not_whole_is_refused(make_layers: MakeLayers, tmp_path: Path, fault: str) -> None:
    _, spans = make_layers(1)
    path = write_all(spans, tmp_path / "made")[0].path
    if fault == "header":
        damage(path, 30)
    else:
        path.write_bytes(path.read_bytes()[: 10 if fault == "short" else -1])
    with pytest.raises(CheckpointError, match="cut or damaged; `run-compress`"):
        open_layer(path, spans[0])


def test_damage_is_told_once_and_a_mended_file_streams_on(make_layers: MakeLayers, tmp_path: Path) -> None:
    layers, spans = make_layers(4, rows=2000)
    written = write_all(spans, tmp_path / "made")
    block = written[2].blocks[-1]
    with LayerStream(spans, readers=2, compressed=written) as stream:
        check_pass(stream, layers)
        damage(block.path, block.start + block.needed // 2)
        with pytest.raises(StreamError, match=rf"{block.path.name} is damaged at byte {block.start}"):
            for _ in range(2):
                check_pass(stream, layers)
        damage(block.path, block.start + block.needed // 2)
        check_pass(stream, layers)


def test_a_file_cut_while_in_use_is_told(make_layers: MakeLayers, tmp_path: Path) -> None:
    layers, spans = make_layers(3, rows=2000)
    written = write_all(spans, tmp_path / "made")
    with LayerStream(spans, compressed=written) as stream:
        check_pass(stream, layers)
        path = written[1].path
        path.write_bytes(path.read_bytes()[: 2 * ALIGNMENT])
        with pytest.raises(StreamError, match="was cut while in use"):
            for _ in range(2):
                check_pass(stream, layers)


def test_a_full_disk_leaves_nothing_and_says_what_to_do(
    make_layers: MakeLayers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, spans = make_layers(1)

    def refuse(file: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(CheckpointError, match=r"No space left on device\. Free some space"):
        write_all(spans, tmp_path / "made")
    assert list((tmp_path / "made").iterdir()) == []


def test_a_sample_tells_the_ratio(make_layers: MakeLayers, tmp_path: Path) -> None:
    _, spans = make_layers(3, rows=6000)
    layouts = [lay_out(layer) for layer in spans]
    written = write_all(spans, tmp_path / "made")
    true = sum(layer.nbytes for layer in written.values()) / sum(
        block.needed for layout in layouts for block in layout.ranges
    )
    assert compressed.sample_ratio(spans) == pytest.approx(true, rel=0.05)


def test_every_checkpoint_has_a_folder_of_its_own(tmp_path: Path) -> None:
    folders = {compressed.compressed_folder(files, tmp_path) for files in ("these files", "other files")}
    assert len(folders) == 2 and {folder.parent for folder in folders} == {tmp_path / "compressed"}
