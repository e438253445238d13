from __future__ import annotations

import pytest
import torch

from specdecodes.errors import QuantError
from specdecodes.quant.codes import Codes, check_group, pack, row_blocks, unpack
from specdecodes.quant.solvers.hqq import solve


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_codes_come_back(bits: int) -> None:
    codes = torch.randint(0, 2**bits, (5, 3, 64), dtype=torch.uint8)
    packed = pack(codes, bits)
    assert packed.shape == (5, 3, 8 * bits)
    assert torch.equal(unpack(packed, bits), codes)
    assert torch.equal(unpack(packed.view(torch.int32), bits).view(torch.uint8), codes)


def test_blocks_cover_all_rows_in_order() -> None:
    codes = solve(torch.randn(520, 4096))
    blocks = codes.row_blocks()
    assert [(rows.start, rows.stop) for rows in blocks] == [(0, 128), (128, 256), (256, 384), (384, 512), (512, 520)]
    assert torch.equal(torch.cat([codes.codes(rows) for rows in blocks]), codes.codes())
    assert torch.equal(torch.cat([codes.dequantize(rows) for rows in blocks]), codes.dequantize())
    assert row_blocks(200, 1 << 20) == [slice(0, 64), slice(64, 128), slice(128, 192), slice(192, 200)]


def test_dequantize_is_the_definition() -> None:
    codes = Codes(
        pack(torch.tensor([[0, 15, 3, 8]], dtype=torch.uint8), 4),
        torch.tensor([[2.0, 0.5]]),
        torch.tensor([[1.0, 4.0]]),
    )
    assert codes.group == 2
    assert codes.dequantize().tolist() == [[-2.0, 28.0, -0.5, 2.0]]


def test_scale_and_offset_say_the_same_weights() -> None:
    codes = solve(torch.randn(32, 256) * 0.02)
    scale, offset = codes.scale_and_offset()
    weight = (codes.codes().view(32, 4, 64).float() - 8) * scale[..., None] + offset[..., None]
    torch.testing.assert_close(weight.view(32, 256), codes.dequantize(), rtol=0, atol=1e-6)


def test_equal_weights_survive_a_bf16_offset() -> None:
    """A flat group has scale 1; as (code - 8) + (8 - zero) in bf16 a weight of 0.001 would become 0 or 0.03."""
    weight = torch.randn(4, 128) * 0.02
    weight[1, 64:] = 0.001
    weight[2] = 0.0
    scale, offset = (part.bfloat16().float() for part in solve(weight).scale_and_offset())
    assert (scale[1, 1], scale[2].tolist(), offset[2].tolist()) == (0.0, [0.0, 0.0], [0.0, 0.0])
    assert offset[1, 1].item() == pytest.approx(0.001, rel=2**-8)
    assert scale[0].min() > 0


def test_a_group_of_span_fifteen_is_not_taken_for_flat() -> None:
    weight = torch.arange(16.0).repeat(1, 4)
    scale, _ = solve(weight).scale_and_offset()
    assert scale.tolist() == [[1.0]]


@pytest.mark.parametrize(("width", "group"), [(96, 64), (64, 0), (64, -64), (63, 21), (64, 1)])
def test_groups_that_cannot_be(width: int, group: int) -> None:
    with pytest.raises(QuantError, match=f"q_proj: {width} input features"):
        check_group(width, group, name="q_proj")
