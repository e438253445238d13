"""Bytes of every part of a pipeline, from configs and file headers alone."""

from __future__ import annotations

import math
from collections.abc import Iterable

from specdecodes.cache import CacheShape
from specdecodes.methods.needs import DraftNeeds
from specdecodes.methods.site import Site
from specdecodes.models.kernels.attention import scratch_bytes
from specdecodes.offload.planning.candidates import WORKING
from specdecodes.offload.planning.shape import ModelShape
from specdecodes.offload.planning.working import Widths, working_bytes
from specdecodes.offload.storage.layout import lay_out
from specdecodes.offload.storage.store import TensorSpan
from specdecodes.quant import Execution, Rules, packed_bytes
from specdecodes.quant.solvers import solving_bytes
from specdecodes.sampling import at_once


def model_shape(site: Site, cache: CacheShape, draft: DraftNeeds, stretch: int) -> ModelShape:
    """Bytes of every part, from headers alone; `stretch` as in `working_bytes`."""
    spec, checkpoint, itemsize = site.checkpoint.spec, site.checkpoint, site.dtype.itemsize
    layers = [checkpoint.layer(index) for index in range(spec.layers)]
    layer_bytes = layers_bytes(site, site.rules, site.execution)
    widths = Widths(spec.hidden_size, spec.intermediate_size, spec.heads, spec.kv_heads, spec.head_dim, spec.vocab_size)
    on_gpu = site.device.type == "cuda"
    working = working_bytes(
        widths,
        rows=site.wide,
        scored=site.pipeline.tree.nodes,
        stretch=stretch,
        slots=cache.slots,
        itemsize=itemsize,
        attention=_attention_bytes(site, cache),
        masks=len(set(spec.windows)),
        chosen=at_once(site.device, site.pipeline.tree.nodes) if on_gpu else 0,
        lanes=site.pipeline.tree.width if on_gpu and site.pipeline.graphs else 0,
    )
    beside = draft.middle.parts_as_middle() if draft.middle else {}
    solving = solving_peak(site, draft) if on_gpu else 0
    working = max(working, solving, beside.pop(WORKING, 0))  # of one model at a time, and of none while it loads
    kv_token, draft_itemsize = cache.nbytes(itemsize) // cache.slots, (draft.model or site).dtype.itemsize
    quantized = ((site, site.rules, site.execution), (site, draft.rules, draft.execution))
    outer = checkpoint.outer()
    return ModelShape(
        layer_bytes=layer_bytes,
        embedding_bytes=elements(outer.values()) * itemsize,
        table_bytes=elements([outer["embedding"]]) * itemsize if site.rows_from_host else 0,
        kv_bytes_per_token=kv_token,
        working_bytes=working,
        slot_bytes=tuple(lay_out(spans).nbytes for spans in layers),
        conversion_bytes=0 if site.dtype == checkpoint.dtype else max(layer_bytes),
        substitute_bytes=draft.substitute_bytes,
        draft_bytes=_model_bytes(draft.model) if draft.model else draft.head.nbytes if draft.head else 0,
        draft_kv_bytes_per_token=draft.cache.nbytes(draft_itemsize) // draft.cache.slots if draft.cache else 0,
        rebuilt_bytes=max(_rebuilt_bytes(*one) for one in quantized),
        can_stream=not site.resident_alone,
        substitute_all=draft.substitute_all,
        beside=tuple(beside.items()),
    )


def solving_peak(site: Site, draft: DraftNeeds) -> int:
    """What a device needs, before any pass, to put the linears of a layer on their grids one after another, with the
    codes of all; 0 where nothing is solved."""
    own = Rules(()) if site.checkpoint.rules else site.rules
    most = 0
    for one, rules in ((site, own), (site, draft.rules), *(((draft.model, draft.model.rules),) if draft.model else ())):
        shapes, itemsize = one.checkpoint.spec.linears().values(), one.checkpoint.dtype.itemsize
        for scheme in rules.schemes:
            codes = sum(
                out * width * scheme.bits // 8 + 8 * out * width // scheme.group_of(width) for out, width in shapes
            )
            most = max(most, codes + max(solving_bytes(out, width, scheme, itemsize) for out, width in shapes))
    return most


def _attention_bytes(site: Site, cache: CacheShape) -> int:
    """Working memory of attention; the larger one where it depends on the plan whether it is exact."""
    spec, arithmetics = site.checkpoint.spec, {site.exact(streamed=False), site.exact(streamed=True)}
    shape = (site.wide, cache.slots, spec.heads, spec.kv_heads, spec.head_dim, site.dtype, site.device.type)
    return max(scratch_bytes(*shape, exact) for exact in arithmetics)


def layers_bytes(site: Site, rules: Rules, execution: Execution) -> tuple[int, ...]:
    """Bytes of each layer with its linears quantized by `rules` and the rest in the dtype that it runs in."""
    spec, sizes = site.checkpoint.spec, []
    for index in range(spec.layers):
        spans, layer = site.checkpoint.layer(index), f"layers.{index}"
        packed = {path for path in spec.linears() if rules.scheme_of(f"{layer}.{path}") is not None}
        parts = [name.rpartition(".") for name in spans]
        kept = [
            name for name, (path, _, leaf) in zip(spans, parts, strict=True) if path not in packed or leaf == "bias"
        ]
        rest = elements(spans[name] for name in kept)
        sizes.append(packed_bytes(spec.linears(), rules, execution, layer=layer) + rest * site.dtype.itemsize)
    return tuple(sizes)


def _model_bytes(site: Site) -> int:
    outer = elements(site.checkpoint.outer().values()) * site.dtype.itemsize
    return outer + sum(layers_bytes(site, site.rules, site.execution))


def _rebuilt_bytes(site: Site, rules: Rules, execution: Execution) -> int:
    """Of the largest linear, in float32 and with its codes beside it, if some scheme has no fused kernel here."""
    if all(execution.choose(scheme).kernel != "reference" for scheme in rules.schemes):
        return 0
    return max(out * width for out, width in site.checkpoint.spec.linears().values()) * 3 * 4


def elements(spans: Iterable[TensorSpan]) -> int:
    """Elements of all tensors together; one that two names share (a tied head) counts once."""
    return sum(math.prod(span.shape) for span in {(span.path, span.offset): span for span in spans}.values())
