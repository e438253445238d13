"""Every shape is covered, by enough programs and by none without work."""

from __future__ import annotations

import pytest

from specdecodes.quant.kernels.cuda.tiling import block_size, choose_splits, choose_tiling

SHAPES = [
    (64, 64, 32),
    (3584, 3584, 64),
    (18944, 3584, 64),
    (3584, 18944, 64),
    (152064, 3584, 64),
    (96, 192, 96),
    (320, 832, 64),
]


@pytest.mark.parametrize(("out", "width", "group"), SHAPES)
@pytest.mark.parametrize("rows", [1, 6, 8, 9, 16, 17, 64])
@pytest.mark.parametrize("processors", [1, 28, 132])
def test_splits_cover_the_width_and_none_is_empty(rows: int, out: int, width: int, group: int, processors: int) -> None:
    splits = choose_splits(rows, out, width, group, processors)
    tiling = choose_tiling(rows, out, width, group, splits)
    steps = width // 2 // tiling.block
    assert tiling.block * steps == width // 2 and group % tiling.block == 0
    assert (splits - 1) * tiling.steps_per_split < steps <= splits * tiling.steps_per_split
    assert tiling.rows >= min(rows, 16)
    for size in (tiling.rows, tiling.out, tiling.block):
        assert size & (size - 1) == 0


@pytest.mark.parametrize("processors", [28, 82, 132])
def test_a_draft_level_of_a_7b_model_fills_the_gpu(processors: int) -> None:
    for out, width, group in SHAPES[1:4]:
        splits = choose_splits(8, out, width, group, processors)
        programs = splits * -(-out // choose_tiling(8, out, width, group, splits).out)
        assert programs >= 2 * processors
        assert splits * 8 * out * 4 <= out * width // 2  # partial sums never weigh more than the weight


def test_a_block_never_crosses_a_group() -> None:
    assert [block_size(1536, group) for group in (16, 48, 64, 96, 128, 256)] == [16, 16, 64, 32, 64, 64]
    assert block_size(832, 64) == 32
