"""The cache keeps the accepted rows, moves nothing else, and owns its length."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from specdecodes.cache import CacheShape, KVCache
from specdecodes.models.kernels.cache_codes import decode, encode

SHAPE = CacheShape(layers=2, kv_heads=2, head_dim=4, max_length=20, draft_nodes=6, target_nodes=8)


def filled() -> KVCache:
    cache = KVCache(SHAPE, torch.float32)
    for rows in (cache.keys, cache.values):
        rows.copy_(torch.arange(SHAPE.slots).view(-1, 1).expand(SHAPE.slots, 4))
    return cache


def test_size():
    cache = filled()
    assert SHAPE.slots == 34
    assert cache.keys.nbytes + cache.values.nbytes == SHAPE.nbytes(4)


@pytest.mark.parametrize("path", [[0], [0, 1], [0, 3, 7], [0, 2, 5, 6]])
def test_keep_moves_the_accepted_rows_and_no_other(path):
    cache = filled()
    cache.commit(5)
    before = cache.keys.clone()
    cache.keep(torch.tensor(path))
    assert cache.length == 5 + len(path)
    slots = slice(6 + 5, 6 + 5 + len(path))
    for rows in (cache.keys, cache.values):
        assert rows[0, 0, 1, slots, 0].tolist() == [11.0 + node for node in path]
    untouched = [slot for slot in range(SHAPE.slots) if not slots.start <= slot < slots.stop]
    assert cache.keys[:, :, :, untouched].equal(before[:, :, :, untouched])


def test_keep_from_the_drafts_region():
    cache = filled()
    cache.commit(3)
    cache.keep(torch.tensor([0, 4]), drafted=True)
    assert cache.values[1, 0, 0, 9:11, 2].tolist() == [0.0, 4.0]
    assert cache.length == 5


def test_a_row_in_8_bits_moves_with_its_step():
    shape = replace(SHAPE, int8=True)
    cache, numbers = KVCache(shape, torch.bfloat16), torch.randn(2, 1, 2, SHAPE.slots, 4)
    assert cache.keys.nbytes + cache.values.nbytes == shape.nbytes(2) == 2 * 2 * 2 * 34 * (4 + 4)
    cache.keys.copy_(encode(numbers))
    cache.values.copy_(encode(-numbers))
    cache.commit(5)
    cache.keep(torch.tensor([0, 3, 7]))
    cache.keep(torch.tensor([2, 4]), drafted=True)
    wanted = encode(numbers[:, :, :, [11, 14, 18, 2, 4]])
    assert cache.keys[:, :, :, 11:16].equal(wanted)
    assert decode(cache.values[:, :, :, 11:16], 4, torch.float32).equal(-decode(wanted, 4, torch.float32))
    cache.clear()
    assert not decode(cache.keys, 4, torch.bfloat16).any()


def test_length_is_guarded():
    cache = filled()
    cache.commit(19)
    with pytest.raises(ValueError, match="exceed the cache's 20"):
        cache.keep(torch.tensor([0, 1]))
    with pytest.raises(ValueError, match="cannot truncate"):
        cache.truncate(20)
    cache.truncate(4)
    assert (cache.length, cache.end) == (4, 10)
    cache.clear()
    assert cache.length == 0 and not cache.keys.any()
