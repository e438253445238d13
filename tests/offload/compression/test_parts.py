"""A layer cut into parts: every byte of it in one part, whole rows of what is guessed, and its bits come back."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from specdecodes.offload.compression.alone.packing import Alone
from specdecodes.offload.compression.beside.packing import Beside
from specdecodes.offload.compression.parts import LayerPart, compress_layer, cut
from specdecodes.offload.storage.layout import lay_out
from specdecodes.offload.storage.store import ALIGNMENT
from tests.offload.conftest import MakeGuessed, MakeLayers

ROW = 128  # bytes


def pieces_of(part: LayerPart) -> tuple[int, ...]:
    """Rows of each of its pieces, 0 for what is compressed alone."""
    assert isinstance(part.packing, Beside)
    return tuple(piece.guess.rows if piece.guess else 0 for piece in part.packing.pieces)


def test_without_guesses_a_part_is_a_read(make_layers: MakeLayers) -> None:
    _, spans = make_layers(1)
    layout = lay_out(spans[0])
    for guesses in (None, {}):
        parts = cut(layout, spans[0], guesses, ALIGNMENT)
        assert [(part.path, part.start, part.nbytes, part.slot_offset) for part in parts] == [
            (block.path, block.start, block.needed, block.slot_offset) for block in layout.blocks(ALIGNMENT)
        ]
        assert {part.packing for part in parts} == {Alone(torch.bfloat16)}


@pytest.mark.parametrize("most", [64, ROW * 10, ROW * 50, 2**20])
def test_parts_hold_every_byte_once_and_whole_rows(make_guessed: MakeGuessed, most: int) -> None:
    _, spans, guesses = make_guessed(2)
    for layer, given in zip(spans, guesses.values(), strict=True):
        layout = lay_out(layer)
        parts = cut(layout, layer, given, most)
        filled = [place for part in parts for place in range(part.slot_offset, part.slot_offset + part.nbytes)]
        wanted = {at + byte for name, at in layout.offsets.items() for byte in range(layer[name].nbytes)}
        assert len(filled) == len(set(filled)) and wanted <= set(filled)
        assert all(part.nbytes <= max(most, ROW) for part in parts)
        assert all(sum(piece.nbytes for piece in part.packing.pieces) == part.expands_to for part in parts)
        rows = [count for part in parts for count in pieces_of(part)]
        assert sum(rows) == sum(guess.rows for guess in given.values())


def test_parts_end_at_multiples_of_sixteen_rows_and_go_on_over_what_lies_between(make_guessed: MakeGuessed) -> None:
    _, spans, guesses = make_guessed(1)
    parts = cut(lay_out(spans[0]), spans[0], guesses[0], 50 * ROW)
    runs = [pieces_of(part) for part in parts if any(pieces_of(part))]
    assert runs[0][0] == 0 and runs[0][1] == 32  # the biases, then k, and q as far as it goes
    assert all(count % 16 == 0 for run in runs for count in run)
    assert sum(len(run) for run in runs) > len(runs)


@pytest.mark.parametrize("layout", ["lanes", "halves"])
@pytest.mark.parametrize("most", [ROW * 20, 2**20])
def test_bits_come_back_from_fewer_bytes(make_guessed: MakeGuessed, layout: str, most: int) -> None:
    layers, spans, guesses = make_guessed(1, rows=640, layout=layout)
    plan, content = lay_out(spans[0]), spans[0]["up"].path.read_bytes()
    slot = torch.zeros(plan.nbytes, dtype=torch.uint8)
    blocks = list(compress_layer(plan, spans[0], guesses[0], most))
    for block, compressed in blocks:
        target = slot[block.slot_offset :][: block.expands_to]
        assert block.packing is not None and block.packing.sound(compressed, block.expands_to)
        assert block.needed == compressed.numel() and block.packing.expand(compressed, target)
    for name, span in spans[0].items():
        restored = slot[plan.offsets[name] :][: span.nbytes]
        assert restored.numpy().tobytes() == content[span.offset : span.offset + span.nbytes], name
    whole = sum(tensor.nbytes for tensor in layers[0].values())
    assert most < 2**20 or sum(block.needed for block, _ in blocks) < 0.75 * whole


def test_weights_that_are_moved_or_of_another_type_are_compressed_alone(make_guessed: MakeGuessed) -> None:
    _, spans, guesses = make_guessed(1)
    odd = {name: replace(span, offset=span.offset + (name == "up")) for name, span in spans[0].items()}
    assert lay_out(odd).moves
    assert {part.packing for part in cut(lay_out(odd), odd, guesses[0], 2**20)} == {Alone(torch.bfloat16)}
    halves = {name: replace(span, dtype=torch.float16) for name, span in spans[0].items() if name != "norm"}
    parts = cut(lay_out(halves), halves, guesses[0], 2**20)
    assert {part.packing for part in parts} == {Alone(torch.float16)}


def test_two_names_of_the_same_bytes_are_one(make_guessed: MakeGuessed) -> None:
    _, spans, guesses = make_guessed(1)
    tied, known = {**spans[0], "up_again": spans[0]["up"]}, {**guesses[0], "up_again": guesses[0]["up"]}
    assert cut(lay_out(tied), tied, known, 4096) == cut(lay_out(spans[0]), spans[0], guesses[0], 4096)


def test_a_guess_of_other_weights_is_refused(make_guessed: MakeGuessed) -> None:
    _, spans, guesses = make_guessed(1)
    with pytest.raises(ValueError, match=r"up is \[320, 64\], and its guess \[304, 64\]"):
        cut(lay_out(spans[0]), spans[0], {"up": guesses[0]["up"].part(16, 304)}, 2**20)
