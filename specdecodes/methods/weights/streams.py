"""The stream of what a plan does not keep resident: as the files have it, compressed, or kept in memory compressed."""

from __future__ import annotations

from collections.abc import Mapping

from specdecodes.methods.measured.outcome import made_of
from specdecodes.methods.site import Site
from specdecodes.methods.weights.compression import ensure_layers, find_layers, to_write
from specdecodes.methods.weights.disk import disk_room
from specdecodes.methods.weights.guesses import guesses
from specdecodes.models.decoder import Decoder
from specdecodes.notify import Notify
from specdecodes.offload.compression.compressed import CompressedLayer
from specdecodes.offload.compression.parts import Guesses
from specdecodes.offload.planning.plan import Placement
from specdecodes.offload.planning.shape import BESIDE
from specdecodes.offload.streaming.slot_stream import SlotStream
from specdecodes.offload.streaming.stream import LayerStream
from specdecodes.offload.streaming.stream_cuda import CudaLayerStream


def open_stream(site: Site, placement: Placement, draft: Decoder | None, progress: Notify) -> SlotStream:
    """As `placement` has it, which streams some layer; `draft` has the substitutes where there are any, of which what
    streams may be compressed beside. Raises CheckpointError, BudgetError, and StreamError."""
    spans = [site.checkpoint.layer(index) for index in placement.streamed]
    known = _known(site, placement, draft)
    writes = site.pipeline.memory.compress != "auto" and placement.compression is not None
    written = _ensured(site, placement, known, progress) if writes else _found(site, placement, known)
    dtype = None if site.dtype == site.checkpoint.dtype else site.dtype
    ahead, slots = site.pipeline.memory.ahead, placement.ring_slots
    places = {index: place for place, index in enumerate(placement.streamed)}
    kept, pinned = ([places[index] for index in layers] for layers in (placement.kept, placement.pinned))
    compressed, beside = (
        {places[index]: layer for index, layer in written.items()},
        {places[index]: of for index, of in known.items()},
    )
    if site.device.type == "cuda":
        return CudaLayerStream(
            spans,
            device=site.device,
            pinned=pinned,
            slots=slots,
            dtype=dtype,
            compressed=compressed,
            kept=kept,
            guesses=beside,
            compress=placement.compression is not None,
            ahead=ahead,
        )
    return LayerStream(
        spans,
        slots=slots,
        dtype=dtype,
        compressed=compressed,
        kept=kept,
        guesses=beside,
        ahead=ahead,
    )


def _known(site: Site, placement: Placement, draft: Decoder | None) -> dict[int, Guesses]:
    """What substitutes say of the layers that stream, where those come beside them."""
    if draft is None or placement.compression is None or placement.compression.kind != BESIDE:
        return {}
    return {index: guesses(draft.stack[index], site.checkpoint.spec) for index in placement.streamed}


def _found(site: Site, placement: Placement, known: Mapping[int, Guesses]) -> dict[int, CompressedLayer]:
    """The layers that have compressed files which the plan counts on, or which load sooner so."""
    if placement.compression is None:
        return {}
    layers = to_write(placement) if placement.compression.on_disk else placement.kept
    return find_layers(site.checkpoint, layers, known, substitute=_substitute(placement, known))


def write(site: Site, placement: Placement, draft: Decoder | None, progress: Notify) -> dict[int, CompressedLayer]:
    """Compressed files of all layers that belong there, of which those that are missing are written now; `draft` as in
    `open_stream`. Raises CheckpointError, and BudgetError."""
    return _ensured(site, placement, _known(site, placement, draft), progress)


def _ensured(
    site: Site, placement: Placement, known: Mapping[int, Guesses], progress: Notify
) -> dict[int, CompressedLayer]:
    assert placement.compression is not None, "planned with compression"
    return ensure_layers(
        site.checkpoint,
        to_write(placement),
        progress,
        known,
        substitute=_substitute(placement, known),
        expected=placement.compression.layer_bytes,
        room=disk_room(site.checkpoint, site.pipeline.memory.disk_bytes),
    )


def _substitute(placement: Placement, known: Mapping[int, Guesses]) -> str:
    return made_of(placement.kernel, placement.draft_rules) if known else ""
