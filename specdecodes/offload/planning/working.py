"""Working memory: what a pass takes beyond weights and caches."""

from __future__ import annotations

from dataclasses import dataclass

_DICE = 48  # bytes a token and row while it is drawn: integers, fp64 and fp32 numbers in turn


@dataclass(frozen=True)
class Widths:
    """Sides of a decoder's tensors."""

    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int


def working_bytes(
    widths: Widths,
    *,
    rows: int,
    scored: int,
    stretch: int,
    slots: int,
    itemsize: int,
    attention: int,
    masks: int = 1,
    chosen: int = 0,
    lanes: int = 0,
) -> int:
    """Bytes of the largest moment of a pass, with a cache of `slots`: of a prompt, `stretch` rows in chunks of `rows`,
    or of a tree of `scored` nodes.

    Kept throughout: cos and sin of every position; for the stretch, hidden states before and after a layer, and its
    positions' cos and sin. For one chunk, `masks` masks of one byte a slot and one in the making, and the larger of
      - a layer: queries, keys, values, feed-forward, each held twice in fp32, and `attention` bytes;
      - the head: logits in the model's dtype and two fp32 copies for sampling; or the dice of `chosen` rows at a time.
    Beside all that the memory of recorded steps: a pass of the tree, and a level of `lanes` nodes (0: there are none).
    """
    kept = max(stretch, rows) * 2 * (widths.hidden + widths.head_dim) * itemsize
    tables = slots * (2 * widths.head_dim * itemsize + 8)
    wide = (widths.heads + 2 * widths.kv_heads) * widths.head_dim + 2 * widths.hidden + 2 * widths.intermediate
    layer = 2 * rows * wide * 4 + attention
    head = scored * widths.vocab * itemsize + (chosen * _DICE if chosen else scored * 8) * widths.vocab
    recorded = 2 * scored * wide * 4 + attention + lanes * widths.vocab * _DICE if lanes else 0
    return kept + tables + (masks + 1) * rows * slots + max(layer, head) + recorded
