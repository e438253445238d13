"""Blocks of the codec, as streams take them."""

from __future__ import annotations

import pytest
import torch

from specdecodes import native
from specdecodes.offload.compression.alone.packing import Alone
from specdecodes.offload.storage.layout import Packing
from tests.offload.compression.alone.test_codec import DTYPES, normal

pytestmark = pytest.mark.skipif(native.find_compiler() is None, reason="no C++ compiler")


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_bit_comes_back_and_damage_is_seen(dtype: str) -> None:
    raw = normal(9000, DTYPES[dtype])
    packing: Packing = Alone(DTYPES[dtype])
    block = packing.compress(raw)
    out, on_device = torch.full_like(raw, 0x55), torch.full_like(raw, 0x55)
    assert packing.sound(block, raw.numel()) and packing.expand(block, out) and out.equal(raw)
    packing.expand_on(block, on_device, packing.cuts(block))
    assert on_device.equal(raw)
    block[200] ^= 0x41
    assert not packing.sound(block, raw.numel()) and not packing.expand(block, out)
