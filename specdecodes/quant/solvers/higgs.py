"""HIGGS: rotated weights are nearly normal, and for a normal distribution the best levels are known.

A row is rotated in pieces (see `hadamard`), each group of it divided by its root mean square, and every number rounded
to the nearest of the Lloyd-Max levels of a standard normal variable (`grids.lloyd_max`). No data, no search. The paper
(Malinovskii et al., arXiv 2411.17525) also rounds pairs of numbers on two-dimensional grids, which lose some percent
less; numbers one by one have tables of sixteen entries, which a processor looks up in a register.
"""

from __future__ import annotations

import torch
from torch import Tensor

from specdecodes.quant.activations import TINY
from specdecodes.quant.codes import Codes, pack, row_blocks
from specdecodes.quant.grids import GAUSS, nearest, table
from specdecodes.quant.hadamard import rotate, rotation_of
from specdecodes.quant.parallel import workers


def solve_rotated(weight: Tensor, *, bits: int, group: int) -> Codes:
    """The codes of `weight` [out, in], in float32 on its device, piece by piece."""
    rotation, levels = rotation_of(weight.shape[1]), table(f"{GAUSS}{bits}").to(weight.device)

    def encode(rows: slice) -> tuple[Tensor, Tensor]:
        pieces = rotate(weight[rows].detach().float(), rotation).view(-1, weight.shape[1] // group, group)
        scale = pieces.square().mean(2).sqrt_().clamp_(min=TINY)
        codes = nearest(pieces / scale[..., None], levels)
        return pack(codes.to(torch.uint8).flatten(1), bits), scale

    with workers(weight.device) as pool:
        packed, scale = zip(*pool.map(encode, row_blocks(weight.shape[0], weight.shape[1], weight.device)), strict=True)
    return Codes(torch.cat(packed), torch.cat(scale), bits=bits, grid=f"{GAUSS}{bits}", rotation=rotation)
