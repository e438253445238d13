"""Targets that come quantized: what they may be asked for, whether they stream, and what receives their bytes."""

from __future__ import annotations

import copy
from collections.abc import Iterable

import torch
from torch import nn

from specdecodes.config import Target
from specdecodes.errors import ConfigError
from specdecodes.models.decoder import Decoder
from specdecodes.models.families import ModelSpec
from specdecodes.models.loading import Checkpoint
from specdecodes.quant import Execution, Rules, specimen
from specdecodes.quant.checkpoints import PackedLayout


def check_quant(target: Target, checkpoint: Checkpoint) -> None:
    """Raises ConfigError where the pipeline asks for a quantization that the checkpoint rules out, QuantError for rules
    on linears that it does not have."""
    target.rules.check(checkpoint.linears)
    if checkpoint.rules and target.rules:
        raise ConfigError(
            f"{checkpoint.folder} is quantized already ({checkpoint.rules}); leave target.quant at none, or quantize "
            "the model's full-precision checkpoint."
        )
    if target.kernel and not checkpoint.rules:
        raise ConfigError(f"target.quant is {target.quant}, but {checkpoint.folder} is not quantized; name a scheme.")


def resident_alone(checkpoint: Checkpoint, rules: Rules, execution: Execution, dtype: torch.dtype) -> str:
    """Why a target with `rules` cannot stream, with the cure; empty where it can."""
    if not rules:
        return ""
    layout = checkpoint.layout
    if layout is None:
        return "Weights that are quantized while loading do not stream; give a larger budget or a quantized checkpoint."
    if not isinstance(layout, PackedLayout):
        return "A quantized checkpoint streams in our own form alone: convert it once with run-convert-checkpoint."
    kernels = {execution.choose(scheme).kernel for scheme in rules.schemes}
    if kernels != {layout.kernel}:
        return (
            f"This checkpoint was converted for the {layout.kernel} kernel, and here it runs on {', '.join(kernels)}; "
            "convert it again for this device to stream it."
        )
    if dtype != checkpoint.dtype:
        return "A quantized checkpoint streams in its own dtype alone; leave target.dtype at auto."
    return ""


def receive(decoder: Decoder, layers: Iterable[int], spec: ModelSpec, rules: Rules, execution: Execution) -> None:
    """Give streamed layers linears without bytes; those come with every pass."""
    made: dict[object, nn.Module] = {}
    for index in layers:
        modules = {}
        for path, shape in spec.linears().items():
            scheme = rules.scheme_of(f"layers.{index}.{path}")
            if scheme is not None:
                if (shape, scheme) not in made:
                    made[shape, scheme] = specimen(*shape, scheme, execution).to("meta")
                modules[path] = copy.deepcopy(made[shape, scheme])
        decoder.stack[index].substitute(modules)
