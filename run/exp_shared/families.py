"""Pairs of precisions over the models of the offloading experiments."""

from dataclasses import replace

from specdecodes.config import Draft, Memory, Pipeline, Tree


def share(base: Pipeline, *, draft: str, target: str = "none", device_memory: str | None = None) -> Pipeline:
    """`base` in the precision `target`, drafted by its own weights in the precision `draft`."""
    memory = base.memory if device_memory is None else Memory(device=device_memory)
    quantized = replace(base.target, quant=target)
    drafted = Draft(quant=draft, temperature=0.2)
    return replace(base, method="share_sd", target=quantized, draft=drafted, memory=memory, warmup=3)


def qspec(base: Pipeline, *, quant: str = "w4a16", device_memory: str | None = None) -> Pipeline:
    """`base` with its weights in 4 bits, drafted by the same weights on inputs of 4 bits: chains, as published."""
    memory = base.memory if device_memory is None else Memory(device=device_memory)
    quantized = replace(base.target, quant=quant)
    tree = Tree(width=1, depth=4, nodes=5)
    return replace(base, method="qspec", target=quantized, draft=Draft(), tree=tree, memory=memory, warmup=3)
