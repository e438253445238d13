"""Pairs of precisions over the models of the offloading experiments."""

from dataclasses import replace

from specdecodes.config import Draft, Memory, Pipeline


def share(base: Pipeline, *, draft: str, target: str = "none", device_memory: str | None = None) -> Pipeline:
    """`base` in the precision `target`, drafted by its own weights in the precision `draft`."""
    memory = base.memory if device_memory is None else Memory(device=device_memory)
    quantized = replace(base.target, quant=target)
    drafted = Draft(quant=draft, temperature=0.2)
    return replace(base, method="share_sd", target=quantized, draft=drafted, memory=memory, warmup=3)
