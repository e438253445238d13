"""Layer files made beside a substitute: fewer bytes, the same bits, and no other substitute is ever believed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from specdecodes.errors import CheckpointError, StreamError
from specdecodes.offload.compression import compressed
from specdecodes.offload.compression.compressed import open_layer, write_layer, written_bytes
from specdecodes.offload.compression.parts import Guesses
from specdecodes.offload.storage.store import ALIGNMENT, TensorSpan, load_tensor, read_index
from specdecodes.offload.streaming.stream import LayerStream
from tests.offload.compression.beside.guesses import LAYOUTS, codes_of, guess_of
from tests.offload.compression.test_compressed import damage
from tests.offload.conftest import MakeGuessed
from tests.offload.streaming.streamed import check_pass

DEMO = Path(__file__).resolve().parents[3] / "assets" / "demo"
QKV = [f"self_attn.{part}_proj.weight" for part in "qkv"]


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several blocks a layer."""
    monkeypatch.setattr(compressed, "BLOCK_BYTES", 8 * ALIGNMENT)


@pytest.mark.parametrize("layout", ["lanes", "halves"])
def test_passes_bring_the_files_bits_from_fewer_bytes(make_guessed: MakeGuessed, tmp_path: Path, layout: str) -> None:
    layers, spans, guesses = make_guessed(rows=2560, layout=layout)
    alone, beside = (
        {at: write_layer(tmp_path / f"{len(given)}" / f"{at}", spans[at], given.get(at)) for at in (0, 1, 3)}
        for given in ({}, guesses)
    )
    with LayerStream(spans, readers=3, compressed=beside) as stream:
        for _ in range(3):
            check_pass(stream, layers)
        with LayerStream(spans, compressed=alone) as other:
            assert stream.bytes_per_pass < 0.97 * other.bytes_per_pass
    assert all(len(layer.blocks) > 5 for layer in beside.values())


def test_a_file_is_of_one_substitute_and_one_layer(make_guessed: MakeGuessed, tmp_path: Path) -> None:
    _, spans, guesses = make_guessed(2)
    path = tmp_path / "a.weights"
    written = write_layer(path, spans[0], guesses[0])
    assert open_layer(path, spans[0], guesses[0]) == written and written_bytes(path) == written.nbytes
    up = guesses[0]["up"]
    other = {**guesses[0], "up": replace(up, scale=up.scale * 2)}
    for given in (other, {"up": up}, None):
        with pytest.raises(CheckpointError, match="made for another substitute; `run-compress` writes it anew"):
            open_layer(path, spans[0], given)
    shifted = {name: replace(span, offset=span.offset + 64) for name, span in spans[0].items() if name != "up"}
    with pytest.raises(CheckpointError, match="not this checkpoint's layer"):
        open_layer(path, {**shifted, "up": spans[0]["up"]}, guesses[0])
    write_layer(path, spans[0])
    with pytest.raises(CheckpointError, match="made for another substitute"):
        open_layer(path, spans[0], guesses[0])


@pytest.mark.parametrize("fault", ["cut", "short", "digest", "table"])
def test_a_file_that_is_not_whole_is_refused(make_guessed: MakeGuessed, tmp_path: Path, fault: str) -> None:
    _, spans, guesses = make_guessed(1)
    path = tmp_path / "a.weights"
    write_layer(path, spans[0], guesses[0])
    if fault in ("digest", "table"):
        damage(path, {"digest": 30, "table": 24 + 32 + 3}[fault])
    else:
        path.write_bytes(path.read_bytes()[: 10 if fault == "short" else -1])
    for asked in (lambda: open_layer(path, spans[0], guesses[0]), lambda: written_bytes(path)):
        with pytest.raises(CheckpointError, match="cut or damaged; `run-compress`"):
            asked()


@pytest.mark.parametrize("place", [0.1, 0.5, 0.9])
def test_damage_is_told_and_a_mended_file_streams_on(make_guessed: MakeGuessed, tmp_path: Path, place: float) -> None:
    layers, spans, guesses = make_guessed(3, rows=640)
    written = {at: write_layer(tmp_path / f"{at}", spans[at], guesses[at]) for at in range(3)}
    block = max(written[2].blocks, key=lambda block: block.needed)
    with LayerStream(spans, compressed=written) as stream:
        check_pass(stream, layers)
        damage(block.path, block.start + int(block.needed * place))
        with pytest.raises(StreamError, match=rf"{block.path.name} is damaged at byte {block.start}"):
            for _ in range(2):
                check_pass(stream, layers)
        damage(block.path, block.start + int(block.needed * place))
        check_pass(stream, layers)


def test_a_sample_tells_the_ratio(make_guessed: MakeGuessed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, spans, guesses = make_guessed(3, rows=8192)
    monkeypatch.setattr(compressed, "BLOCK_BYTES", 2**20)
    written = [write_layer(tmp_path / f"{at}", spans[at], guesses[at]).nbytes for at in guesses]
    whole = sum(span.nbytes for layer in spans for span in layer.values())
    ratio = compressed.sample_ratio(spans, [guesses[at] for at in range(3)])
    assert ratio == pytest.approx(sum(written) / whole, rel=0.03) and ratio < 0.64


def test_a_substitute_has_a_folder_of_its_own(tmp_path: Path) -> None:
    names = ("", "hqq4", "rtn4")
    folders = {compressed.compressed_folder("these files", tmp_path, substitute=name) for name in names}
    assert len(folders) == 3 and compressed.compressed_folder("these files", tmp_path) in folders


def known_of(layer: dict[str, torch.Tensor], layout: str) -> Guesses:
    """Of all linears but one; those of q, k and v are one substitute."""
    joined = codes_of(torch.cat([layer[name] for name in QKV]), 64)
    known, first = {}, 0
    for name in QKV:
        known[name], first = guess_of(joined, layout, first, len(layer[name])), first + len(layer[name])
    others = [f"mlp.{part}_proj.weight" for part in ("up", "down")] + ["self_attn.o_proj.weight"]
    return known | {name: guess_of(codes_of(layer[name], 32), layout) for name in others}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_trained_models_layers_are_its_checkpoints(tmp_path: Path, layout: str) -> None:
    """Beside the buffers that linears of both kinds hold: one layer from its file, one kept of it, one kept as read."""
    spans: list[dict[str, TensorSpan]] = [{}, {}, {}]
    for name, span in read_index(DEMO).items():
        if name.startswith(("model.layers.0.", "model.layers.1.", "model.layers.2.")):
            spans[int(name.split(".")[2])][name.split(".", 3)[3]] = span
    layers = [{name: load_tensor(span) for name, span in layer.items()} for layer in spans]
    guesses = {at: known_of(layer, layout) for at, layer in enumerate(layers)}
    written = {at: write_layer(tmp_path / f"{at}", spans[at], guesses[at]) for at in (0, 1)}
    with LayerStream(spans, compressed=written, kept=(1, 2), guesses=guesses) as stream:
        for _ in range(2):
            check_pass(stream, layers)
        assert written[0].nbytes < 0.66 * sum(span.nbytes for span in spans[0].values())
        assert stream.bytes_per_pass == written[0].nbytes
