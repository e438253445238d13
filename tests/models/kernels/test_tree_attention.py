"""Attention through a tree's mask: the Triton kernels against torch's own, on the GPU or under triton's interpreter."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from specdecodes.models.kernels.attention import attend
from specdecodes.models.kernels.cache_codes import decode, encode, turn
from tests.interpreted import need_triton

need_triton()
from specdecodes.models.kernels.tree_attention import choose_cut, tree_attend  # noqa: E402

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# Against fp64 on the same numbers: sums in fp32; in the narrow dtypes the softmax is rounded, and so is the result.
BOUND = {torch.float32: 2e-6, torch.bfloat16: 8e-3, torch.float16: 1e-3}


@dataclass(frozen=True)
class Case:
    batch: int = 1
    count: int = 6
    heads: int = 4
    kv_heads: int = 2
    head_dim: int = 32
    committed: int = 150
    start: int = 20
    spare: int = 30  # slots behind the window
    dtype: torch.dtype = torch.float32


def arguments(case: Case, seed: int = 0) -> dict[str, Tensor | float]:
    """A random tree after `committed` slots: its rows at scattered slots, the mask's columns counted from `start`."""
    torch.manual_seed(seed)
    slots = case.start + case.committed + case.count + case.spare
    rows = (case.batch, case.count)
    ancestors = torch.eye(case.count, dtype=torch.bool)
    for node in range(1, case.count):
        ancestors[node] |= ancestors[torch.randint(node, ())]
    mask = torch.zeros(*rows, slots, dtype=torch.bool)
    mask[:, :, : case.committed] = torch.rand(*rows, case.committed) < 0.9
    mask[:, :, case.committed : case.committed + case.count] = ancestors
    cache = (case.batch, case.kv_heads, slots, case.head_dim)
    key, value = (torch.randn(*rows, case.kv_heads, case.head_dim, dtype=case.dtype) for _ in range(2))
    given = {
        "query": torch.randn(*rows, case.heads, case.head_dim, dtype=case.dtype),
        "key": key,
        "value": value,
        "keys": torch.randn(cache, dtype=case.dtype),
        "values": torch.randn(cache, dtype=case.dtype),
        "slots": case.start + case.committed + torch.randperm(case.count),
        "mask": mask,
        "window": torch.tensor([case.start, case.start + case.committed + case.count]),
    }
    return {name: tensor.to(DEVICE) for name, tensor in given.items()} | {"scale": case.head_dim**-0.5}


def check(given: dict[str, Tensor | float]) -> Tensor:
    """Runs both, compares what they return and what they store; returns the kernels' result."""
    wanted_cache = {name: given[name].cpu().clone() for name in ("keys", "values")}
    host = {name: part.cpu() if isinstance(part, Tensor) else part for name, part in given.items()} | wanted_cache
    wide = {name: part.double() if isinstance(part, Tensor) and part.is_floating_point() else part
            for name, part in host.items()}  # fmt: skip
    wanted = attend(*wide.values(), False)
    attend(*host.values(), False)
    found = tree_attend(**given)
    for name, cache in wanted_cache.items():
        torch.testing.assert_close(given[name].cpu(), cache, rtol=0, atol=0, equal_nan=True)
    assert found.dtype == given["query"].dtype and found.shape == given["query"].shape
    bound = BOUND[found.dtype]
    torch.testing.assert_close(found.cpu().double(), wanted, rtol=bound, atol=bound)
    return found


@pytest.mark.parametrize(
    "case",
    [
        Case(dtype=torch.bfloat16),
        Case(count=1, heads=7, kv_heads=1, head_dim=64, dtype=torch.float16),  # one row, seven heads on a key head
        Case(count=5, heads=14, kv_heads=2, head_dim=48, start=0),  # more rows than a tile; padded to 64
        Case(count=3, heads=2, kv_heads=2, head_dim=128, committed=9, spare=0),  # fewer slots than splits could take
        Case(batch=2, count=2, heads=4, kv_heads=2, head_dim=16),
        Case(count=17, heads=1, kv_heads=1, head_dim=256, committed=70),
        Case(count=512, heads=1, kv_heads=1, head_dim=16, committed=20, dtype=torch.bfloat16),  # the largest tree
    ],
)
def test_agrees_with_the_plain_operator(case: Case) -> None:
    check(arguments(case))


@pytest.mark.parametrize("seed", range(3))
def test_random_trees(seed: int) -> None:
    torch.manual_seed(seed)
    count, committed, start = (int(torch.randint(1, high, ())) for high in (9, 300, 40))
    check(arguments(Case(count=count, committed=committed, start=start, head_dim=32), seed))


def test_a_row_that_sees_one_slot_is_that_slots_value() -> None:
    """Most splits show it nothing, and must not make it NaN."""
    given = arguments(Case(committed=500, count=4))
    given["mask"][:] = False
    given["mask"][:, :, 3] = True
    found = check(given)
    torch.testing.assert_close(found[0, 0, 0], given["values"][0, 0, 23])


def test_a_row_that_sees_nothing_is_zero() -> None:
    given = arguments(Case())
    given["mask"][:, 2] = False
    found = tree_attend(**given)
    assert torch.equal(found[:, 2], torch.zeros_like(found[:, 2])) and found.isfinite().all()


def test_slots_outside_the_window_are_not_looked_at() -> None:
    given = arguments(Case())
    inside = slice(*given["window"].tolist())
    for name in ("keys", "values"):
        outside = torch.full_like(given[name], float("nan"))
        outside[:, :, inside] = given[name][:, :, inside]
        given[name] = outside
    check(given)


def test_strided_rows_are_stored_as_they_are() -> None:
    """Values come as a view of a wider projection."""
    given = arguments(Case())
    joint = torch.randn(1, 6, 4, 32, device=DEVICE)
    given["key"], given["value"] = joint[:, :, :2], joint[:, :, 2:]
    check(given)


@pytest.mark.parametrize(
    "case",
    [
        Case(dtype=torch.bfloat16),
        Case(count=5, heads=14, kv_heads=2, head_dim=48, start=0, dtype=torch.float16),
        Case(batch=2, count=2, heads=2, kv_heads=2, head_dim=20),
    ],
)
def test_a_cache_in_8_bits(case: Case) -> None:
    given = arguments(case)
    given["key"][:, -1] = 0.0
    given |= {"keys": encode(turn(given["keys"])), "values": encode(given["values"])}
    host = {name: part.cpu().clone() if isinstance(part, Tensor) else part for name, part in given.items()}
    wanted, found = attend(*host.values(), False), tree_attend(**given)
    bound = 2 * max(BOUND[case.dtype], 1e-4)  # a new key or value may be a code apart
    torch.testing.assert_close(found.cpu(), wanted, rtol=bound, atol=bound)
    for name in ("keys", "values"):
        mine, other = (decode(rows[name].cpu(), case.head_dim, torch.float32) for rows in (given, host))
        assert ((mine - other).abs() <= other.abs().amax(-1, keepdim=True) / 126).all()


@pytest.mark.parametrize("processors", [1, 28, 132])
@pytest.mark.parametrize("head_dim", [32, 64, 80, 128, 256])
@pytest.mark.parametrize("itemsize", [2, 4])
def test_a_cut_fits_the_gpu(processors: int, head_dim: int, itemsize: int) -> None:
    for queries, heads, slots in [(1, 1, 10), (7, 4, 2400), (56, 4, 2400), (3584, 4, 33000)]:
        cut = choose_cut(queries, heads, slots, head_dim, itemsize, processors)
        for size in (cut.rows, cut.slots, cut.splits):
            assert size & (size - 1) == 0
        padded = 1 << (head_dim - 1).bit_length()
        assert 2 * 2 * cut.slots * padded * itemsize <= 128 * 1024  # two stages of keys and of values
        assert cut.splits <= 64
    assert choose_cut(56, 4, 2400, head_dim, itemsize, 132).splits * 4 >= 64


def test_a_short_cache_is_not_cut() -> None:
    assert choose_cut(56, 4, 100, 128, 2, 132).splits == 1


@pytest.mark.parametrize(("queries", "head_dim", "warps"), [(1, 128, 4), (56, 64, 4), (56, 128, 8), (3584, 256, 8)])
def test_a_large_tile_of_results_has_more_warps(queries: int, head_dim: int, warps: int) -> None:
    """Four have too few registers for it: on capability 9.0 each thread kept 212 bytes of it in memory."""
    assert choose_cut(queries, 4, 2400, head_dim, 2, 132).warps == warps
