"""Rows of a cache in 8 bits, for drafts: half the memory of a long context, and answers do not depend on them.

A key or a value of one head becomes whole numbers from -127 to 127 and one step, the largest of its numbers over 127.
Keys are turned by a Hadamard matrix first, and queries with them, which leaves their products as they are: a few
channels of keys are often many times larger than the others (Liu et al. 2024, KIVI; Qwen2's biases make it worse), and
one step for all would round those away. Turned, all channels are about alike (Ashkboos et al. 2024, QuaRot). A step a
channel instead would have to be known before the first row comes.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from specdecodes.cache import coded_width
from specdecodes.quant.hadamard import rotate, rotation_of

LEVELS = 127


def turn(x: Tensor) -> Tensor:
    """Queries or keys [..., D] in the basis of stored keys, in float32."""
    return rotate(x.float(), rotation_of(x.shape[-1]))


def encode(x: Tensor) -> Tensor:
    """Values, or turned keys, [..., D] as rows [..., coded_width(D)] int8. A row that is not finite stays so."""
    wide = x.float()
    step = wide.abs().amax(-1, keepdim=True) / LEVELS
    step = torch.where(step.isfinite(), step, torch.nan)
    codes = (wide / step).nan_to_num_(0.0).round_().to(torch.int8)
    filled = F.pad(codes, (0, coded_width(x.shape[-1]) - 4 - x.shape[-1]))
    return torch.cat((filled, step.view(torch.int8)), -1)


def decode(rows: Tensor, size: int, dtype: torch.dtype) -> Tensor:
    """The numbers [..., size] of `rows` [..., coded_width(size)]."""
    return (rows[..., :size] * rows[..., -4:].view(torch.float32)).to(dtype)
