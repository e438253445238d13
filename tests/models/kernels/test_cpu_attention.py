"""Our attention kernel against torch's arithmetic in fp64."""

from __future__ import annotations

import pytest
import torch

from specdecodes.models.kernels import cpu_attention
from specdecodes.models.kernels.attention import attend
from specdecodes.models.kernels.cache_codes import decode, encode, turn
from specdecodes.native import find_compiler

pytestmark = pytest.mark.skipif(find_compiler() is None, reason="no C++ compiler")

SHAPES = [
    (1, 4, 4, 32, 70),
    (4, 40, 5, 32, 257),
    (3, 6, 2, 80, 33),
    (16, 8, 1, 128, 1400),
    (70, 6, 2, 32, 300),
    (2, 3, 3, 20, 9),
]
BOUND = {torch.float32: 2e-6, torch.float16: 1e-3, torch.bfloat16: 8e-3}  # of 24, 11 and 8 bits; values are about 1


def inputs(rows, heads, kv_heads, dim, seen, dtype, seed=0):
    """Arguments of `attend` up to the scale; keys and values are slices of one wider tensor, as a joined linear gives
    them."""
    torch.manual_seed(seed)
    slots = seen + 20
    joined = torch.randn(1, rows, (heads + 2 * kv_heads) * dim, dtype=dtype)
    query, key, value = joined.split([heads * dim, kv_heads * dim, kv_heads * dim], -1)
    keys, values = torch.randn(2, 1, kv_heads, slots, dim, dtype=dtype)
    mask = torch.rand(1, rows, slots) < 0.6
    written = 5 + torch.randperm(seen)[:rows]
    mask[0, torch.arange(rows), written - 5] = True
    new = (query.view(1, rows, heads, dim), key.view(1, rows, kv_heads, dim), value.view(1, rows, kv_heads, dim))
    return (*new, keys, values, written, mask, torch.tensor([5, 5 + seen]))


@pytest.fixture
def by_torch(monkeypatch):
    """`attend` without the kernel."""

    def run(*arguments):
        with monkeypatch.context() as patch:
            patch.setattr(cpu_attention, "_library", lambda: None)
            return attend(*arguments)

    return run


@pytest.mark.parametrize("dtype", BOUND)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_rows_equal_attention_in_fp64(shape, dtype, by_torch):
    ours, theirs = inputs(*shape, dtype), inputs(*shape, dtype)
    assert cpu_attention.fits(ours[0], ours[3])
    got = attend(*ours, shape[3] ** -0.5, False)
    wanted = by_torch(*theirs, shape[3] ** -0.5, True)
    assert (got - wanted).abs().max() <= BOUND[dtype]
    assert ours[3].equal(theirs[3]) and ours[4].equal(theirs[4])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_row_s_bits_do_not_depend_on_what_it_does_not_see(dtype):
    """The same keys in the same order, side by side and among rows of other branches, in windows of any length."""
    torch.manual_seed(3)
    query, key = torch.randn(1, 1, 4, 32, dtype=dtype), torch.randn(1, 1, 2, 32, dtype=dtype)
    for seen in (1, 40, 56, 61, 130):
        own = torch.randn(2, 1, 2, seen, 32, dtype=dtype)
        found = []
        for slots in (seen, seen + 7, seen + 90):
            places = torch.randperm(slots)[:seen].sort().values
            cache = torch.randn(2, 1, 2, slots + 1, 32, dtype=dtype)  # the row itself comes last
            cache[:, :, :, places] = own
            mask = torch.zeros(1, 1, slots + 1, dtype=torch.bool)
            mask[0, 0, places] = mask[0, 0, slots] = True
            arguments = (*cache, torch.tensor([slots]), mask, torch.tensor([0, slots + 1]))
            found.append(attend(query, key, key, *arguments, 32**-0.5, False))
        assert all(one.equal(found[0]) for one in found)


@pytest.mark.parametrize("dtype", BOUND)
@pytest.mark.parametrize("shape", [*SHAPES, (64, 14, 2, 64, 700), (512, 4, 2, 16, 900)], ids=str)
def test_exact_attention_is_torchs_in_every_bit(shape, dtype, by_torch):
    """Both accumulate in fp64 and round once, so that the order of their sums is lost in the rounding."""
    ours, theirs = inputs(*shape, dtype), inputs(*shape, dtype)
    assert cpu_attention.fits(ours[0], ours[3])
    assert attend(*ours, shape[3] ** -0.5, True).equal(by_torch(*theirs, shape[3] ** -0.5, True))


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("unseen", [slice(40, 1300), slice(0, 700), slice(64, 96)], ids=str)
def test_what_no_row_sees_is_passed_over(unseen, exact, by_torch):
    """Whole stripes and single blocks."""
    ours, theirs = (inputs(3, 6, 2, 32, 1400, torch.float32) for _ in range(2))
    for arguments in (ours, theirs):
        arguments[6][:, :, unseen] = False
        arguments[6][:, :, 1399] = True
    got, wanted = attend(*ours, 0.2, exact), by_torch(*theirs, 0.2, True)
    assert got.equal(wanted) if exact else (got - wanted).abs().max() < 2e-6


def test_exact_attention_does_not_depend_on_the_other_rows_or_on_the_slots():
    query, key, value, keys, values, slots, mask, window = inputs(64, 6, 2, 32, 300, torch.bfloat16)
    whole = attend(query, key, value, keys, values, slots, mask, window, 0.2, True)
    order = torch.randperm(300)
    moved = [5 + order.argsort()[slots - 5]]
    for cache in (keys, values):
        cache[:, :, 5:305] = cache[:, :, 5 + order]
    mask[:, :, :300] = mask[:, :, order]
    few = [11, 2, 63]
    part = attend(
        query[:, few], key[:, few], value[:, few], keys, values, moved[0][few], mask[:, few], window, 0.2, True
    )
    assert part.equal(whole[:, few])


def coded(arguments):
    """The same on caches in 8 bits."""
    query, key, value, keys, values, *rest = arguments
    return query, key, value, encode(turn(keys)), encode(values), *rest


@pytest.mark.parametrize("dtype", BOUND)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_rows_in_8_bits(shape, dtype, by_torch):
    """As torch does it on the same codes, and near to what whole numbers give; what is stored may be a code apart."""
    whole, ours, theirs = (inputs(*shape, dtype) for _ in range(3))
    ours, theirs, scale = coded(ours), coded(theirs), shape[3] ** -0.5
    assert cpu_attention.fits(ours[0], ours[3])
    got, same, near = attend(*ours, scale, False), by_torch(*theirs, scale, False), attend(*whole, scale, False)
    assert (got - same).abs().max() <= max(BOUND[dtype], 1e-4) * 2
    assert (got - near).abs().max() <= max(BOUND[dtype], 2e-2)
    new = (slice(None), slice(None), whole[5])
    for mine, other, numbers in zip(ours[3:5], theirs[3:5], (turn(whole[3]), whole[4]), strict=True):
        stored, wanted = (decode(rows, shape[3], torch.float32) for rows in (mine, other))
        step = numbers.float().abs().amax(-1, keepdim=True)[new] / 127
        assert ((stored - wanted)[new].abs() <= 1.1 * step).all() and ((stored - numbers)[new].abs() <= step).all()
        mine[new], other[new] = 0, 0
        assert mine.equal(other)


def test_not_a_number_stays_one_in_8_bits(by_torch):
    for run in (attend, by_torch):
        arguments = inputs(2, 4, 2, 32, 40, torch.float32)
        arguments[2][0, 1, 0, 3] = float("inf")
        arguments[6][0, :, arguments[5] - 5] = torch.eye(2, dtype=torch.bool)
        got = run(*coded(arguments), 0.2, False)
        assert got[0, 1, :2].isnan().all()


def test_not_a_number_stays_one():
    arguments = inputs(2, 4, 2, 32, 40, torch.float32)
    arguments[0][0, 1, 3] = float("nan")
    got = attend(*arguments, 0.2, False)
    assert got[0, 1, 3].isnan().all()
    assert got[0, 0].isfinite().all()


def test_what_it_does_not_take_goes_elsewhere():
    keys = torch.zeros(1, 2, 8, 32)
    assert not cpu_attention.fits(torch.zeros(2, 1, 4, 32), keys)
    assert not cpu_attention.fits(torch.zeros(1, 1, 4, 32, dtype=torch.float64), keys)


def test_without_a_compiler_torch_does_it(monkeypatch):
    arguments = inputs(3, 4, 2, 32, 40, torch.float32)
    expected = attend(*inputs(3, 4, 2, 32, 40, torch.float32), 0.2, False)
    monkeypatch.setattr(cpu_attention, "_library", lambda: None)
    assert (attend(*arguments, 0.2, False) - expected).abs().max() < 2e-6


def test_what_does_not_fit_the_cache_is_refused():
    query, key, value, keys, values, slots, mask, window = inputs(3, 4, 2, 32, 40, torch.float32)
    with pytest.raises(RuntimeError, match="the cache takes"):
        attend(query, query, query, keys, values, slots, mask, window, 0.2, False)
    with pytest.raises(IndexError, match="60"):
        attend(query, key, value, keys, values, slots + 60, mask, window, 0.2, False)
