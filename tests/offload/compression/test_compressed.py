"""Layers kept compressed: what streams is what the checkpoint holds, and a file that is not whole is never believed."""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import pytest
import torch

from specdecodes import native
from specdecodes.errors import CheckpointError, StreamError
from specdecodes.offload.compression import codec, compressed, expander
from specdecodes.offload.compression.compressed import CompressedLayer, open_layer, write_layer
from specdecodes.offload.storage.layout import lay_out
from specdecodes.offload.storage.store import ALIGNMENT, TensorSpan
from specdecodes.offload.streaming.stream import LayerStream
from tests.offload.conftest import MakeLayers
from tests.offload.streaming.streamed import check_pass, intercept, interrupts, same

pytestmark = pytest.mark.skipif(native.find_compiler() is None, reason="no C++ compiler")


@pytest.fixture(params=[False, True], ids=["spare cores", "crowded"])
def crowded(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether all cores compute, so that the caller expands."""
    monkeypatch.setattr(expander, "usable_cores", lambda: 1 if request.param else 1000)
    return bool(request.param)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several blocks a layer."""
    monkeypatch.setattr(compressed, "BLOCK_BYTES", 8 * ALIGNMENT)


def write_all(spans: list[Mapping[str, TensorSpan]], folder: Path) -> dict[int, CompressedLayer]:
    return {
        place: write_layer(compressed.layer_path(folder, place), lay_out(layer), torch.bfloat16)
        for place, layer in enumerate(spans)
    }


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


@pytest.mark.usefixtures("crowded")
def test_random_delays_and_order_never_show_wrong_bits(
    make_layers: MakeLayers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(expander, "PATIENCE", 1e-3)
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


def test_who_expands(make_layers: MakeLayers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, crowded: bool) -> None:
    layers, spans = make_layers(6, rows=1500)
    written, real, by_caller = write_all(spans, tmp_path), codec.expand, []

    def expand(block: torch.Tensor, target: torch.Tensor) -> bool:
        by_caller.append(threading.current_thread() is threading.main_thread())
        return real(block, target)

    monkeypatch.setattr(codec, "expand", expand)
    monkeypatch.setattr(expander, "PATIENCE", 10.0)  # the caller comes back before that, pass after pass
    with LayerStream(spans, readers=3, compressed=written) as stream:
        for _ in range(3):
            check_pass(stream, layers)
            time.sleep(0.01)  # a draft runs, and the first layers of the next pass are expanded by readers
    assert any(by_caller) == crowded and not all(by_caller)


def test_a_caller_that_computes_for_long_is_not_waited_for(
    make_layers: MakeLayers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layers, spans = make_layers(3, rows=1500)
    monkeypatch.setattr(expander, "usable_cores", lambda: 1)
    monkeypatch.setattr(expander, "PATIENCE", 1e-3)
    with LayerStream(spans, readers=1, compressed=write_all(spans, tmp_path)) as stream:
        with stream.layer(0):
            deadline = time.monotonic() + 10.0
            while stream.counters.bytes_read < stream.bytes_per_pass * 0.6 and time.monotonic() < deadline:
                time.sleep(1e-3)
            assert time.monotonic() < deadline, "the next layer arrives meanwhile"
        with stream.layer(1) as tensors:
            assert same(tensors, layers[1])


def test_interrupts_at_any_time_leave_no_block_unexpanded(
    make_layers: MakeLayers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layers, spans = make_layers(3, rows=600)
    monkeypatch.setattr(expander, "usable_cores", lambda: 1)
    monkeypatch.setattr(expander, "PATIENCE", 1e-3)
    dice = random.Random(3)
    with LayerStream(spans, readers=2, compressed=write_all(spans, tmp_path)) as stream, interrupts() as begin:
        for _ in range(100):
            with suppress(KeyboardInterrupt):
                begin(dice.uniform(1e-5, 4e-3))
                while True:
                    check_pass(stream, layers)
            check_pass(stream, layers)


def test_a_file_is_found_again_and_is_the_layers_own(make_layers: MakeLayers, tmp_path: Path) -> None:
    _, spans = make_layers(2)
    path = tmp_path / "folder" / "a.weights"
    assert open_layer(path, lay_out(spans[0])) is None
    written = write_layer(path, lay_out(spans[0]), torch.bfloat16)
    assert open_layer(path, lay_out(spans[0])) == written
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    with pytest.raises(CheckpointError, match="not this checkpoint's layer"):
        open_layer(path, lay_out(spans[1]))


@pytest.mark.parametrize("fault", ["cut", "short", "header"])
def test_a_file_that_is_not_whole_is_refused(make_layers: MakeLayers, tmp_path: Path, fault: str) -> None:
    _, spans = make_layers(1)
    path = write_all(spans, tmp_path / "made")[0].path
    if fault == "header":
        damage(path, 30)
    else:
        path.write_bytes(path.read_bytes()[: 10 if fault == "short" else -1])
    with pytest.raises(CheckpointError, match="cut or damaged; `run-compress`"):
        open_layer(path, lay_out(spans[0]))


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
    assert compressed.sample_ratio(layouts, torch.bfloat16) == pytest.approx(true, rel=0.05)


def test_every_checkpoint_has_a_folder_of_its_own(tmp_path: Path) -> None:
    folders = {compressed.compressed_folder(files, tmp_path) for files in ("these files", "other files")}
    assert len(folders) == 2 and {folder.parent for folder in folders} == {tmp_path / "compressed"}
