"""Working memory: what a pass takes beyond weights and caches."""

from __future__ import annotations

from dataclasses import dataclass


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
    widths: Widths, *, rows: int, prompt: int, slots: int, itemsize: int, exact: bool, masks: int = 1
) -> int:
    """Bytes of the largest moment of a pass of `rows` rows over a prompt of `prompt` tokens, with a cache of `slots`.

    Kept for the whole prompt: hidden states before and after a layer, `masks` masks of one byte a slot, and positions'
    cos and sin. For one chunk, the larger of
      - a layer: queries, keys, values, feed-forward, each held twice in fp32, and attention: scores and their softmax,
        in fp64 with keys and values widened when `exact`, one key head at a time, else in fp32;
      - the head: logits in the model's dtype and two fp32 copies for sampling.
    """
    prompt = max(prompt, rows)
    kept = prompt * (2 * widths.hidden * itemsize + masks * slots + 2 * widths.head_dim * itemsize)
    wide = (widths.heads + 2 * widths.kv_heads) * widths.head_dim + 2 * widths.hidden + 2 * widths.intermediate
    groups = -(-widths.heads // widths.kv_heads)
    scores = 2 * rows * slots * (groups * 8 if exact else widths.heads * 4)
    widened = 2 * slots * widths.head_dim * 8 if exact else 0
    layer = 2 * rows * wide * 4 + scores + widened
    head = rows * widths.vocab * (itemsize + 8)
    return kept + max(layer, head)
