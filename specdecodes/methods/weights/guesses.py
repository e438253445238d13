"""What the substitutes in memory say of the weights that stream, so that only the rest has to."""

from __future__ import annotations

import torch
from torch import nn

from specdecodes.models.decoder import JOINED, DecoderLayer
from specdecodes.models.families import ModelSpec
from specdecodes.offload.compression.beside.guess import Guess
from specdecodes.quant.kernels.cpu.lanes import LanesLinear
from specdecodes.quant.kernels.cuda.w4a16 import W4A16Linear


def guesses(layer: DecoderLayer, spec: ModelSpec) -> dict[str, Guess]:
    """The guess at each weight of a layer that has substitutes, by the tensor's name such as `mlp.up_proj.weight`;
    none for a linear that is in full precision, or whose kernel holds it in another way than a guess reads."""
    modules, shapes, found = dict(layer.named_modules()), spec.linears(), {}
    for path, (rows, _) in shapes.items():
        whole = next((name for name, parts in JOINED.items() if path in parts and modules.get(name)), path)
        before = JOINED.get(whole, ())
        first = sum(shapes[part][0] for part in before[: before.index(path)]) if before else 0
        guess = _guess(modules[whole], first, rows)
        if guess is not None:
            found[f"{path}.weight"] = guess
    return found


def _guess(linear: nn.Module, first: int, rows: int) -> Guess | None:
    """Of `rows` rows of a linear, from `first` on; layouts are those of Guess."""
    if isinstance(linear, LanesLinear):
        plain = linear.bits == 4 and linear.whole is None and not linear.zeros and not linear.rotation
        if plain and linear.order is None:
            return Guess(linear.packed, linear.scale, linear.offset, "lanes", first, rows, linear.in_features)
    if isinstance(linear, W4A16Linear) and linear.order is None and linear.scale.dtype == torch.float16:
        return Guess(linear.nibbles, linear.scale, linear.offset, "halves", first, rows, linear.in_features)
    return None
