"""Working memory grows with what it is made of."""

from __future__ import annotations

from dataclasses import replace

from specdecodes.offload.working import Widths, working_bytes

WIDTHS = Widths(hidden=8, intermediate=16, heads=4, kv_heads=2, head_dim=2, vocab=10)


def test_by_hand() -> None:
    kept = 10 * (2 * 8 * 2 + 3 * 20 + 2 * 2 * 2)
    layer = 2 * 5 * (16 + 16 + 32) * 4 + 2 * 2 * 5 * 20 * 8 + 2 * 20 * 2 * 8  # of one key head: two query heads
    assert working_bytes(WIDTHS, rows=5, prompt=10, slots=20, itemsize=2, exact=True, masks=3) == kept + layer


def test_a_large_vocabulary_is_the_larger_moment() -> None:
    few, many = (
        working_bytes(replace(WIDTHS, vocab=vocab), rows=5, prompt=10, slots=20, itemsize=2, exact=False)
        for vocab in (10**6, 2 * 10**6)
    )
    assert many - few == 5 * 10**6 * 10


def test_exact_holds_one_key_head_at_a_time() -> None:
    many = replace(WIDTHS, heads=8, kv_heads=4)
    one, four = (working_bytes(w, rows=5, prompt=10, slots=2000, itemsize=2, exact=True) for w in (WIDTHS, many))
    assert four - one == 2 * 5 * (32 - 16) * 4  # only the linears grew
