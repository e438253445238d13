"""Rows of a cache in 8 bits: half a step away at most, and no channel of keys is rounded away."""

from __future__ import annotations

import pytest
import torch

from specdecodes.cache import coded_width
from specdecodes.models.kernels.cache_codes import LEVELS, decode, encode, turn


@pytest.mark.parametrize("size", [6, 20, 64, 80])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_row_comes_back_within_half_a_step(size: int, dtype: torch.dtype) -> None:
    torch.manual_seed(size)
    x = torch.randn(3, 2, size, dtype=dtype) * torch.tensor([1e-4, 1.0, 1e4]).view(3, 1, 1).to(dtype)
    rows = encode(x)
    assert rows.dtype == torch.int8 and rows.shape == (3, 2, coded_width(size))
    step = x.float().abs().amax(-1, keepdim=True) / LEVELS
    assert ((decode(rows, size, torch.float32) - x.float()).abs() <= 0.501 * step).all()
    assert decode(rows, size, dtype).dtype == dtype


def test_rows_of_zeros_and_of_no_numbers() -> None:
    x = torch.zeros(4, 8)
    x[1, 2], x[2, 3], x[3] = torch.nan, -torch.inf, torch.arange(8)
    back = decode(encode(x), 8, torch.float32)
    assert back[0].equal(x[0]) and back[1:3].isnan().all() and back[3].isfinite().all()


@pytest.mark.parametrize("size", [7, 20, 64])
def test_turning_both_changes_no_product(size: int) -> None:
    query, key = torch.randn(2, 5, size)
    assert ((turn(query) * turn(key)).sum(-1) - (query * key).sum(-1)).abs().max() < 1e-4


def test_large_channels_of_keys_do_not_drown_the_others() -> None:
    """A pair of channels a hundred times as large, as biases of keys make them: scores stay several times as exact."""
    torch.manual_seed(0)
    query, key = torch.randn(2, 400, 64)
    key[:, [3, 35]] += 100.0
    query[:, [3, 35]] /= 100.0
    wanted = query @ key.T
    turned, plain = (
        (one(query) @ decode(encode(one(key)), 64, torch.float32).T - wanted).pow(2).mean().sqrt()
        for one in (turn, torch.clone)
    )
    assert 3 * turned < plain and turned < 0.1 * wanted.std()
