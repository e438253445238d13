"""Working memory grows with what it is made of."""

from __future__ import annotations

from dataclasses import replace

from specdecodes.offload.planning.working import Widths, working_bytes

WIDTHS = Widths(hidden=8, intermediate=16, heads=4, kv_heads=2, head_dim=2, vocab=10)


SHAPE = {"rows": 5, "scored": 4, "stretch": 10, "slots": 20, "itemsize": 2, "attention": 1000}


def test_by_hand() -> None:
    kept = 10 * (2 * 8 * 2 + 2 * 2 * 2) + 20 * (2 * 2 * 2 + 8)
    layer = 2 * 5 * (16 + 16 + 32) * 4 + 1000
    assert working_bytes(WIDTHS, **SHAPE, masks=3) == kept + 4 * 5 * 20 + layer


def test_a_large_vocabulary_is_the_larger_moment() -> None:
    few, many = (working_bytes(replace(WIDTHS, vocab=vocab), **SHAPE) for vocab in (10**6, 2 * 10**6))
    assert many - few == 4 * 10**6 * 10


def test_a_long_context_costs_no_square() -> None:
    """Twice the slots, prompts as long: what grows is a chunk's masks and the positions."""
    long, longer = (
        working_bytes(WIDTHS, **{**SHAPE, "rows": 256, "stretch": 2048, "slots": slots}) for slots in (32768, 65536)
    )
    assert longer - long == 32768 * (2 * 256 + 2 * 2 * 2 + 8)


def test_a_gpu_throws_some_dice_at_a_time_and_keeps_memory_of_what_it_recorded() -> None:
    large = replace(WIDTHS, vocab=10**6)
    assert working_bytes(large, **SHAPE, chosen=1) - working_bytes(large, **SHAPE) == (48 - 4 * 8) * 10**6
    recorded = 2 * 4 * (16 + 16 + 32) * 4 + 1000 + 3 * 10 * 48
    assert working_bytes(WIDTHS, **SHAPE, lanes=3) - working_bytes(WIDTHS, **SHAPE) == recorded
