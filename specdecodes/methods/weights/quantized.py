"""Layers of few bits from a checkpoint, one after another: the full-precision model is never in memory."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from tqdm import tqdm

from specdecodes.methods.site import Site
from specdecodes.methods.weights.disk import disk_room
from specdecodes.models.decoder import JOINED, Decoder
from specdecodes.models.loading import load_linear, load_tensors
from specdecodes.notify import Notify
from specdecodes.offload.planning.candidates import counted
from specdecodes.offload.storage.pages import side_by_side
from specdecodes.quant import Execution, LayerDone, Rules, SubstituteCache, assemble, choose_kernels, substitute, tune


def load_quantized(
    decoder: Decoder, site: Site, rules: Rules, execution: Execution, layers: Sequence[int], progress: Notify
) -> None:
    """Fill `layers` of `decoder`: linears as `rules` say, the rest as the checkpoint has it, in the site's dtype.

    What was quantized before comes from the cache, and its full-precision weights are not read at all.
    """
    if site.checkpoint.rules and rules == site.rules:
        return _load_given(decoder, site, execution, layers, progress)
    room = disk_room(site.checkpoint, site.pipeline.memory.disk_bytes)
    cache = SubstituteCache(site.checkpoint.files, notify=progress, room=room)
    done: list[LayerDone] = []
    waiting = sum(not cache.path(f"layers.{index}", rules).exists() for index in layers)
    if waiting:
        progress(f"quantizing {counted(waiting, 'layer')} as {rules}; later starts find them cached")
    started = time.perf_counter()
    for index in tqdm(layers, desc=f"layers in {rules}", unit="layer", leave=False, disable=None):
        _fill(decoder, site, rules, execution, index, cache, done)
    if site.device.type == "cuda":
        tune([module for index in layers for module in decoder.stack[index].modules()], execution.rows)
    solved, seconds = sum(not layer.cached for layer in done), time.perf_counter() - started
    kernel = choose_kernels(rules, execution).kernel
    origin = f"{solved} solved anew, the rest from {cache.root}"
    progress(f"{len(done)} layers in {rules} on {kernel} in {seconds:.1f} s; {origin}")


def _load_given(decoder: Decoder, site: Site, execution: Execution, layers: Sequence[int], progress: Notify) -> None:
    """Fill `layers` with the checkpoint's own codes."""
    started, checkpoint, rules = time.perf_counter(), site.checkpoint, site.rules
    for index in tqdm(layers, desc=f"layers in {rules.schemes[0]}", unit="layer", leave=False, disable=None):
        paths = [path for path in checkpoint.spec.linears() if rules.scheme_of(f"layers.{index}.{path}")]
        solved = {path: load_linear(checkpoint, index, path) for path in paths}
        modules = assemble(solved, rules, execution, layer=f"layers.{index}", joined=JOINED)
        _put(decoder, site, index, modules)
    kernel, seconds = choose_kernels(rules, execution).kernel, time.perf_counter() - started
    progress(f"{len(layers)} layers in {rules.schemes[0]} of the checkpoint itself on {kernel} in {seconds:.1f} s")


def _put(decoder: Decoder, site: Site, index: int, modules: Mapping[str, nn.Module]) -> None:
    """Give a layer quantized linears and its own copy of the rest."""
    layer, spans = decoder.stack[index], site.checkpoint.layer(index)
    layer.substitute(modules)
    replaced = {part for path in modules for part in JOINED.get(path, (path,))}
    kept = {name: span for name, span in spans.items() if name.rpartition(".")[0] not in replaced}
    layer.put(load_tensors(kept, site.dtype, site.device))
    layer.put(side_by_side(dict(layer.named_buffers())))


def _fill(
    decoder: Decoder,
    site: Site,
    rules: Rules,
    execution: Execution,
    index: int,
    cache: SubstituteCache,
    done: list[LayerDone],
) -> None:
    spans = site.checkpoint.layer(index)

    def weights() -> dict[str, tuple[Tensor, Tensor | None]]:
        """As the file has them, whatever dtype the model runs in: the cached solution serves all. In host memory."""
        wanted = [path for path in site.checkpoint.spec.linears() if rules.scheme_of(f"layers.{index}.{path}")]
        own = site.checkpoint.rules
        given = [path for path in wanted if own.scheme_of(f"layers.{index}.{path}") is not None]
        parts = {name: span for name, span in spans.items() if name.rpartition(".")[0] in set(wanted) - set(given)}
        tensors = load_tensors(parts, site.checkpoint.dtype, torch.device("cpu"))
        full = {path: (tensors[f"{path}.weight"], tensors.get(f"{path}.bias")) for path in wanted if path not in given}
        linears = {path: load_linear(site.checkpoint, index, path) for path in given}
        return full | {path: (one.codes.weight(), one.bias) for path, one in linears.items()}

    modules = substitute(
        weights, rules, execution, cache=cache, layer=f"layers.{index}", joined=JOINED, on_layer=done.append
    )
    _put(decoder, site, index, modules)
