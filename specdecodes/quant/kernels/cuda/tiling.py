"""How the w4a16 kernel cuts a product into programs: arithmetic on shapes, to be tuned without touching the kernel.

Chosen by reasoning, not yet by timing on a GPU.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

PROGRAMS_PER_PROCESSOR = 4  # enough loads in flight to keep the memory busy
MIN_STEPS = 4  # blocks that a split reads at least, so that its loads overlap
MAX_BLOCK = 64  # bytes of a row read at a time
MAX_ROWS = 16  # more would spill registers; weights are read again from the L2 cache for the next tile of rows


@dataclass(frozen=True)
class Tiling:
    """One launch: a tile is `rows` x `out`, its inner loop reads `block` bytes of each row `steps_per_split` times."""

    rows: int
    out: int
    block: int
    steps_per_split: int
    warps: int
    stages: int


def choose_tiling(rows: int, out: int, width: int, group: int, splits: int) -> Tiling:
    """The tiling of `rows` tokens on a weight [out, width] whose loop over the width is cut into `splits`."""
    tile_rows, block = _tile_rows(rows), block_size(width, group)
    steps = width // 2 // block
    return Tiling(
        rows=tile_rows,
        out=_tile_out(out),
        block=block,
        steps_per_split=-(-steps // splits),
        warps=4,
        stages=4,
    )


def choose_splits(rows: int, out: int, width: int, group: int, processors: int) -> int:
    """As few as give every one of the GPU's `processors` enough programs, and none without work."""
    tile_rows = _tile_rows(rows)
    tiles = -(-rows // tile_rows) * -(-out // _tile_out(out))
    steps = width // 2 // block_size(width, group)
    wanted = -(-PROGRAMS_PER_PROCESSOR * processors // tiles)
    splits = max(1, min(wanted, steps // MIN_STEPS))
    return -(-steps // -(-steps // splits))


def block_size(width: int, group: int) -> int:
    """The bytes of a row read at a time: a power of two that divides the group and half the width, so that both of a
    block's halves have one scale each."""
    shared = math.gcd(group, width // 2)
    return min(shared & -shared, MAX_BLOCK)


def _tile_rows(rows: int) -> int:
    return min(max(8, 1 << (rows - 1).bit_length()), MAX_ROWS)


def _tile_out(out: int) -> int:
    """Wide tiles read x less often; many tiles fill the GPU. The widest matrices can have both."""
    return 128 if out >= 16384 else 64 if out >= 2048 else 32
