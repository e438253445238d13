"""Wiring that every method shares: find the checkpoint, plan the memory, load what stays, open the stream for the rest."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from tqdm import tqdm

from specdecodes.cache import CacheShape, KVCache
from specdecodes.config import Pipeline
from specdecodes.engine.compile import Steps, compiled_steps, eager_steps
from specdecodes.engine.layers import LayerSource, ResidentLayers, StreamedLayers
from specdecodes.engine.runner import ModelRunner
from specdecodes.drafters import Drafter
from specdecodes.errors import ConfigError
from specdecodes.generator import Generator, Origin
from specdecodes.methods.machine import free_bytes, measure
from specdecodes.models.decoder import Decoder
from specdecodes.models.families import ModelSpec
from specdecodes.models.loading import DTYPES, Checkpoint, load_layers, load_outer, load_tokenizer, open_checkpoint
from specdecodes.offload.layout import lay_out
from specdecodes.offload.plan import Budgets, ModelShape, Placement, plan
from specdecodes.offload.predict import Workload
from specdecodes.offload.store import TensorSpan, probe
from specdecodes.offload.stream import LayerStream

Progress = Callable[[str], None]

PROMPT_ROWS = 64
"""Rows of a prompt chunk at least: enough to keep a core's arithmetic busy, and the width of the usual tree."""


@dataclass(frozen=True)
class Site:
    """Where and how a pipeline runs, found out before anything is loaded."""

    pipeline: Pipeline
    checkpoint: Checkpoint
    device: torch.device
    dtype: torch.dtype

    @classmethod
    def of(cls, pipeline: Pipeline) -> Site:
        checkpoint = open_checkpoint(pipeline.target.model, pipeline.target.revision)
        device = find_device(pipeline.target.device)
        dtype = checkpoint.dtype if pipeline.target.dtype == "auto" else DTYPES[pipeline.target.dtype]
        return cls(pipeline, checkpoint, device, dtype)

    def cache_shape(self, spec: ModelSpec, *, draft_nodes: int, target_nodes: int) -> CacheShape:
        return CacheShape(spec.layers, spec.kv_heads, spec.head_dim, self.pipeline.max_length, draft_nodes, target_nodes)

    @property
    def chunk(self) -> int:
        """Rows of a prompt chunk and of the widest pass: the same for every method, as exactness asks."""
        return max(PROMPT_ROWS, self.pipeline.tree.nodes)

    def steps(self) -> Steps:
        return compiled_steps() if self.pipeline.compile else eager_steps()


def find_device(name: str) -> torch.device:
    """`auto` is the first CUDA device, else the CPU. Raises ConfigError for a device that is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"target.device '{name}' is no device; write auto, cpu, cuda or cuda:1.") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"target.device is {name}, but no CUDA device was found; write cpu, or install the CUDA build of torch.")
    return device


def place(
    site: Site,
    *,
    draft_nodes: int = 0,
    levels: int = 0,
    substitute_bytes: tuple[int, ...] = (),
    draft: Checkpoint | None = None,
    draft_cache: CacheShape | None = None,
) -> Placement:
    """Plan a method's memory. `levels` of drafting at most, on substitutes of the given packed size or on a `draft` model."""
    checkpoint, pipeline, itemsize = site.checkpoint, site.pipeline, site.dtype.itemsize
    spec = checkpoint.spec
    layers = [checkpoint.layer(index) for index in range(spec.layers)]
    outer = checkpoint.outer()
    if spec.tied:
        del outer["head.weight"]
    layer_bytes = tuple(sum(elements(span) * itemsize for span in spans.values()) for spans in layers)
    cache = site.cache_shape(spec, draft_nodes=draft_nodes, target_nodes=site.chunk)
    shape = ModelShape(
        layer_bytes=layer_bytes,
        embedding_bytes=sum(elements(span) * itemsize for span in outer.values()),
        head_bytes=spec.vocab_size * spec.hidden_size * itemsize,
        kv_bytes_per_token=cache.nbytes(itemsize) // cache.slots,
        working_bytes=working_bytes(spec, site.chunk, cache.slots, itemsize),
        itemsize=itemsize,
        slot_bytes=tuple(lay_out(spans).nbytes for spans in layers),
        conversion_bytes=0 if site.dtype == checkpoint.dtype else max(layer_bytes),
        substitute_bytes=substitute_bytes,
        draft_bytes=sum(elements(span) * span.dtype.itemsize for span in draft.spans.values()) if draft else 0,
        draft_kv_bytes_per_token=draft_cache.nbytes(draft.dtype.itemsize) // draft_cache.slots if draft and draft_cache else 0,
    )
    workload = Workload(
        cache_rows=cache.slots,
        rows=pipeline.tree.nodes if levels else 1,
        levels=levels,
        adaptive=pipeline.tree.adaptive,
        draft_cache_rows=draft_cache.slots if draft_cache else 0,
    )
    device_bytes = pipeline.memory.device_bytes or free_bytes(site.device)
    machine = measure(checkpoint.files, site.device)
    return plan(shape, Budgets(device_bytes, pipeline.memory.host_bytes), machine, workload, storage=probe(checkpoint.files[0]).reason)


def working_bytes(spec: ModelSpec, rows: int, slots: int, itemsize: int) -> int:
    """What a pass of `rows` holds beside weights and cache: activations, fp64 attention over `slots`, logits in fp32.

    Keys, values and scores in fp64 at once, scores twice (softmax is not in place); one layer at a time.
    """
    activations = rows * (6 * spec.hidden_size + 3 * spec.intermediate_size) * itemsize
    attention = 8 * slots * (2 * spec.kv_heads * spec.head_dim + 2 * rows * spec.heads)
    return activations + attention + rows * spec.vocab_size * (4 + 4 + itemsize)


def elements(span: TensorSpan) -> int:
    return math.prod(span.shape)


@dataclass(frozen=True)
class LoadedTarget:
    """A target with its weights in place and its stream open."""

    site: Site
    decoder: Decoder
    runner: ModelRunner
    placement: Placement
    tokenizer: Any
    stream: LayerStream | None

    def generator(self, drafter: Drafter, *, kernel: str = "") -> Generator:
        """The finished generator. `kernel` names what the draft's linears run on."""
        pipeline = self.site.pipeline
        origin = Origin(
            method=pipeline.method,
            model=pipeline.target.model,
            dtype=str(self.site.dtype).removeprefix("torch."),
            device=str(self.site.device),
            exact=self.runner.exact,
            kernel=kernel,
        )
        return Generator(
            self.tokenizer,
            self.runner,
            drafter,
            eos_ids=self.site.checkpoint.eos_ids,
            origin=origin,
            placement=self.placement,
            on_close=self.stream.close if self.stream is not None else lambda: None,
        )


def load_target(site: Site, placement: Placement, progress: Progress, *, width: int, draft_nodes: int = 0) -> LoadedTarget:
    """Load what `placement` keeps resident; the rest will be streamed. `width`: rows of a verify pass when not exact."""
    checkpoint, pipeline, device = site.checkpoint, site.pipeline, site.device
    tokenizer = load_tokenizer(checkpoint.folder)
    exact = bool(placement.streamed) if pipeline.exact is None else pipeline.exact
    width = pipeline.tree.nodes if exact else width
    decoder = Decoder(checkpoint.spec, site.dtype)
    progress(f"loading {len(placement.resident)} of {checkpoint.spec.layers} layers of {checkpoint.folder.name}")
    load_outer(decoder, checkpoint, device)
    resident = tqdm(placement.resident, desc="resident layers", unit="layer", leave=False, disable=None)
    load_layers(decoder, checkpoint, resident, device)
    layers, stream = _sources(site, decoder, placement)
    shape = site.cache_shape(checkpoint.spec, draft_nodes=draft_nodes, target_nodes=site.chunk)
    cache = KVCache(shape, site.dtype, device)
    runner = ModelRunner(decoder, layers, cache, site.steps(), width=width, chunk=site.chunk, exact=exact)
    return LoadedTarget(site, decoder, runner, placement, tokenizer, stream)


def _sources(site: Site, decoder: Decoder, placement: Placement) -> tuple[LayerSource, LayerStream | None]:
    layers: list[Any] = list(decoder.layers)
    if not placement.streamed:
        return ResidentLayers(layers), None
    spans = [site.checkpoint.layer(index) for index in placement.streamed]
    stream = LayerStream(spans, slots=placement.ring_slots, dtype=site.dtype)
    return StreamedLayers(layers, placement.streamed, stream), stream
