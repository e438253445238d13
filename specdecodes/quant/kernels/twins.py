"""One set of 4-bit weights, run a second way: the same tensors, with inputs rounded to few bits."""

from __future__ import annotations

import copy

from torch import nn

from specdecodes.quant.kernels.cpu.w4a8 import W4A8Linear
from specdecodes.quant.kernels.cpu.w4a32 import W4A32Linear
from specdecodes.quant.kernels.cuda.lookup import LookupLinear
from specdecodes.quant.kernels.reference import ReferenceLinear


def twin(linear: nn.Module, activations: str) -> nn.Module | None:
    """A linear on the tensors of `linear`, which stays as it is, that rounds its inputs to `activations`, row by row;
    None for a linear that has no such second way."""
    if isinstance(linear, W4A32Linear):
        rounding = W4A8Linear.sharing(linear)
        rounding.activations = activations
        return rounding
    if isinstance(linear, ReferenceLinear | LookupLinear):
        second = copy.copy(linear)  # buffers are held in one dictionary by both
        second.activations = activations
        return second
    return None
