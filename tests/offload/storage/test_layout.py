"""Layouts: every byte is read once, aligned, in few reads, and every tensor can be viewed where it lands."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch

from specdecodes.offload.storage.layout import lay_out
from specdecodes.offload.storage.store import ALIGNMENT, TensorSpan

FILE, OTHER = Path("a.safetensors"), Path("b.safetensors")


def span(offset: int, nbytes: int, path: Path = FILE, dtype: torch.dtype = torch.bfloat16) -> TensorSpan:
    return TensorSpan("", dtype, (nbytes // dtype.itemsize,), path, offset, nbytes)


def test_neighbours_share_a_read_and_distant_tensors_do_not() -> None:
    layout = lay_out({"a": span(100, 5000), "b": span(5100, 20), "c": span(40960, 8), "d": span(0, 8, OTHER)})
    assert [(block.path, block.start, block.length, block.needed) for block in layout.ranges] == [
        (FILE, 0, 8192, 5120),
        (FILE, 40960, 4096, 8),
        (OTHER, 0, 4096, 8),
    ]
    assert layout.offsets == {"a": 100, "b": 5100, "c": 8192, "d": 12288}
    assert layout.nbytes == 16384
    assert not layout.moves


def test_a_tensor_that_its_dtype_cannot_read_in_place_is_moved() -> None:
    layout = lay_out({"odd": span(101, 6), "even": span(108, 8, dtype=torch.float32)})
    assert [(move.source, move.target, move.nbytes) for move in layout.moves] == [(101, 4096, 6)]
    assert layout.offsets == {"odd": 4096, "even": 108}
    assert layout.nbytes == 8192


def test_empty_tensors_cost_nothing() -> None:
    assert lay_out({"empty": span(8192, 0)}).ranges == ()


@pytest.mark.parametrize("seed", range(30))
def test_random_layers(seed: int) -> None:
    dice = random.Random(seed)
    spans, offset = {}, dice.randrange(9000)
    for index in range(dice.randrange(1, 12)):
        dtype = dice.choice([torch.int8, torch.bfloat16, torch.float32, torch.float64])
        nbytes = dice.choice([0, 8, 4096, 8 * dice.randrange(5000)])
        spans[str(index)] = span(offset, nbytes, dice.choice([FILE, OTHER]), dtype)
        offset += nbytes + dice.choice([0, 0, 1, 8, 5000, 100_000])
    layout = lay_out(spans)
    blocks = list(layout.blocks(2 * ALIGNMENT))
    moved = {move.target: move.source for move in layout.moves}
    for name, tensor in spans.items():
        place = layout.offsets[name]
        assert place % tensor.dtype.itemsize == 0
        assert place + tensor.nbytes <= layout.nbytes
        arrives = moved.get(place, place)
        for byte in {0, tensor.nbytes // 2, tensor.nbytes - 1} if tensor.nbytes else ():
            inside = [b for b in blocks if b.path == tensor.path and 0 <= tensor.offset + byte - b.start < b.needed]
            assert len(inside) == 1
            assert inside[0].slot_offset + tensor.offset + byte - inside[0].start == arrives + byte
    taken = sorted((b.slot_offset, b.slot_offset + b.length) for b in blocks)
    assert all(one[1] <= two[0] for one, two in zip(taken, taken[1:], strict=False))
    for block in blocks:
        assert not (block.start | block.length | block.slot_offset) % ALIGNMENT
        assert 0 < block.needed <= block.length <= 2 * ALIGNMENT
        assert block.slot_offset + block.length <= layout.nbytes
