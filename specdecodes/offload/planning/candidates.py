"""Every placement worth comparing, and the bytes of its parts. Pure arithmetic.

A streamed layer takes ring space that all of them share, and a substitute where the draft needs one. A resident layer
leaves the stream and needs no substitute; it may keep one all the same, where a cheap draft step is worth more than the
bytes.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from specdecodes.offload.planning.predict import Workload
from specdecodes.offload.planning.work import Machine

STAGING = 2
"""Slots of host memory that layers pass through from disk to an accelerator: one is read while another is copied."""

SLOTS = 2
"""Of a ring, at least: one slot is read while another is computed. A further one holds bytes that arrive while a draft
runs; it costs as much as a resident layer that is drafted by its substitute, and hides as much, or less where drafts
are short."""

WORKING = "working memory"
DRAFT, DRAFT_CACHE = "draft model", "draft's key-value cache"


ALONE, BESIDE = "alone", "beside"
"""Ways to compress: by what a block's own weights have in common, or by what a substitute in memory says of them."""


@dataclass(frozen=True)
class Compression:
    """How streamed layers can be compressed: the bytes that each one then takes, and what restoring them costs.

    `gbps` counts restored bytes, of one core or of the accelerator. `on_disk`: in files too, not in memory alone.
    `kind`: ALONE or BESIDE, which takes fewer bytes and needs a substitute of every layer that streams. `keeps`: layers
    may be kept so in the device's memory, too. `apart`: they are restored in one place beside the ring, whose slots
    hold compressed bytes then, and none of a layer that is kept; else in the slots.
    """

    layer_bytes: tuple[int, ...]
    gbps: float
    way: str
    on_disk: bool
    buffer_bytes: int  # for compressed bytes on their way, beside the ring
    source: str = ""  # how the bytes are known
    kind: str = ALONE
    keeps: bool = False
    apart: bool = False


@dataclass(frozen=True)
class ModelShape:
    """Bytes of a model's parts, in the dtype that it runs in."""

    layer_bytes: tuple[int, ...]
    embedding_bytes: int  # embedding, head and final norm: always resident
    kv_bytes_per_token: int
    working_bytes: int = 0  # activations, masks, logits: see `working_bytes`
    slot_bytes: tuple[int, ...] = ()  # of the ring, per layer, as `layout.lay_out` says; empty: two pages a layer more
    conversion_bytes: int = 0  # when streamed layers are converted on arrival: the largest one
    substitute_bytes: tuple[int, ...] = ()  # packed draft layers; empty: the method needs none
    draft_bytes: int = 0  # an independent draft model
    draft_kv_bytes_per_token: int = 0
    rebuilt_bytes: int = 0  # the largest weight that a linear without a fused kernel rebuilds at every call
    can_stream: bool = True
    substitute_all: bool = False  # resident layers too, whatever that costs
    compression: Compression | None = None  # of what streams
    beside: tuple[tuple[str, int], ...] = ()  # further parts and their bytes: a middle model's

    def arriving(self, layer: int, *, pinned: bool) -> int:
        """Bytes that bring a streamed layer; `pinned`: from host memory."""
        if self.compression is None or not (pinned or self.compression.on_disk):
            return self.layer_bytes[layer]
        return self.compression.layer_bytes[layer]

    def pinned_bytes(self, layer: int) -> int:
        """Bytes of host memory that a pinned layer takes."""
        return self.slot(layer) if self.compression is None else self.compression.layer_bytes[layer]

    def ring_slot(self, split: Division) -> int:
        """Bytes of a slot, of the ring that the layers of a split pass through."""
        packed = self.compression
        if packed is None or not packed.apart:
            return max(map(self.slot, split.streamed), default=0)
        if not packed.on_disk:
            return max(map(self.slot, split.linked), default=0)
        sizes = (packed.layer_bytes[layer] for layer in split.linked)
        return max((size + 4096 * (2 + size // 2**20) for size in sizes), default=0)  # blocks take whole pages

    def restored(self, split: Division) -> int:
        """Bytes of the place beside the ring where compressed layers of a split are restored."""
        packed = self.compression
        if packed is None or not packed.apart:
            return 0
        return max(map(self.slot, split.streamed if packed.on_disk else split.kept), default=0)

    def slot(self, layer: int) -> int:
        return self.slot_bytes[layer] if self.slot_bytes else -(-self.layer_bytes[layer] // 4096) * 4096 + 8192


@dataclass(frozen=True)
class Budgets:
    """Bytes that the model may use; None is no limit. Without an accelerator both mean RAM and the smaller one counts.

    `source` and `host_source` say, for the plan's table, where a budget is from that the user did not give like that.
    """

    device: int | None = None
    host: int | None = None
    source: str = ""
    host_source: str = ""


@dataclass(frozen=True)
class Division:
    """Where the layers live, as indices in order."""

    resident: tuple[int, ...]
    streamed: tuple[int, ...]
    substituted: tuple[int, ...] = ()
    kept: tuple[int, ...] = ()  # of the streamed: compressed in the device's memory, so no link brings them

    @property
    def linked(self) -> tuple[int, ...]:
        """The streamed layers that a link brings."""
        return _without(self.streamed, self.kept)


@dataclass(frozen=True, kw_only=True)
class Candidate(Division):
    """One choice of where the layers live, and the bytes of every part."""

    pinned: tuple[int, ...]  # of the linked: held in host memory
    device: dict[str, int]
    host: dict[str, int]
    slots: int = SLOTS  # of the ring

    @property
    def device_bytes(self) -> int:
        return sum(self.device.values())

    @property
    def ring_bytes(self) -> int:
        return self.device[ring_of(self.slots)]

    def with_ring(self, slots: int) -> Candidate:
        """The same with a ring of so many slots."""
        before, size = ring_of(self.slots), self.ring_bytes // self.slots * slots
        parts = ((ring_of(slots), size) if part == before else (part, nbytes) for part, nbytes in self.device.items())
        return replace(self, device=dict(parts), slots=slots)

    def shortfall(self, budgets: Budgets) -> int:
        """Bytes over the budgets, both together; 0 for a placement that fits."""
        return over(self.device, budgets.device) + over(self.host, budgets.host)


def candidates(shape: ModelShape, budgets: Budgets, machine: Machine, workload: Workload) -> Iterator[Candidate]:
    """Every count of resident layers that may be, with no and with as many of their substitutes as fit; each with no
    layer kept compressed, on the smallest ring and on the largest, and with as many kept as fit beside the smallest."""
    layers = tuple(range(len(shape.layer_bytes)))
    for count in range(0 if shape.can_stream else len(layers), len(layers) + 1):
        resident = spread(count, len(layers))
        streamed = _without(layers, resident)
        needed = layers if shape.substitute_all else streamed if shape.substitute_bytes else ()
        splits = [Division(resident, streamed, needed)]
        if further := _further(shape, budgets, _with_bytes(shape, budgets, machine, workload, splits[0])):
            splits.append(Division(resident, streamed, tuple(sorted((*needed, *further)))))
        for split in splits:
            least = _with_bytes(shape, budgets, machine, workload, split)
            yield from map(least.with_ring, _rings(least, budgets, workload))
            if kept := _kept(shape, budgets, least):
                yield _with_bytes(shape, budgets, machine, workload, replace(split, kept=kept))


def _without(layers: Sequence[int], others: Collection[int]) -> tuple[int, ...]:
    gone = set(others)
    return tuple(layer for layer in layers if layer not in gone)


def _with_bytes(
    shape: ModelShape, budgets: Budgets, machine: Machine, workload: Workload, split: Division
) -> Candidate:
    """With the smallest ring: of the slots that were asked for, as long as so many layers stream."""
    slots = max(SLOTS, min(workload.ring or SLOTS, len(split.streamed)))
    pinned, host = _host_side(shape, budgets, machine, split.linked)
    device = _device_side(shape, workload, split, slots, from_host=bool(pinned))
    return Candidate(**vars(split), pinned=pinned, device=device, host=host, slots=slots)


def _further(shape: ModelShape, budgets: Budgets, least: Candidate) -> tuple[int, ...]:
    """As many of the resident layers as may have a substitute, too, beside those that must."""
    if not shape.substitute_bytes or shape.substitute_all:
        return ()
    return _as_fit(least.resident, shape.substitute_bytes, _room(least.device_bytes, budgets.device))


def _kept(shape: ModelShape, budgets: Budgets, least: Candidate) -> tuple[int, ...]:
    """As many of the streamed layers as fit compressed, where those may be kept."""
    if shape.compression is None or not shape.compression.keeps:
        return ()
    return _as_fit(least.streamed, shape.compression.layer_bytes, _room(least.device_bytes, budgets.device))


def _room(taken: int, limit: int | None) -> int | None:
    """Bytes that are left of a budget; None: it has no limit."""
    return None if limit is None else limit - taken


def _as_fit(layers: Sequence[int], sizes: Sequence[int], room: int | None) -> tuple[int, ...]:
    """As many of `layers`, spread evenly, as fit into `room` bytes by their `sizes`."""
    most = len(layers)
    if layers and room is not None:
        most = min(most, room // max(1, min(sizes[layer] for layer in layers)))
    for count in range(most, 0, -1):
        chosen = tuple(layers[place] for place in spread(count, len(layers)))
        if room is None or sum(sizes[layer] for layer in chosen) <= room:
            return chosen
    return ()


def _rings(least: Candidate, budgets: Budgets, workload: Workload) -> tuple[int, ...]:
    """Slots of the smallest ring and, where a draft runs, of the largest that fits (of one too large, to be told, where
    no larger one does); fewer than layers stream."""
    most, slots = len(least.streamed) - 1, least.slots
    if workload.ring is not None or not (workload.levels and workload.ahead) or most <= slots:
        return (slots,)
    slot = least.ring_bytes // slots
    fit = most if budgets.device is None else slots + (budgets.device - least.device_bytes) // slot
    return slots, min(max(fit, slots + 1), most)


def spread(count: int, total: int) -> tuple[int, ...]:
    """`count` of `total` layers to keep resident: evenly spaced, so that the ring catches up between streamed ones.

    Early layers might serve acceptance better, since an error made there passes through all others; not measured yet.
    """
    return tuple((2 * place + 1) * total // (2 * count) for place in range(count))


def over(parts: Mapping[str, int], limit: int | None) -> int:
    """Bytes by which `parts` exceed `limit`."""
    return max(0, sum(parts.values()) - limit) if limit is not None else 0


def ring_of(slots: int) -> str:
    """The part that the ring is: `ring of 2 slots`."""
    return f"ring of {slots} slots"


def kept_part(count: int) -> str:
    """`3 kept layers, compressed`."""
    return f"{counted(count, 'kept layer')}, compressed"


def counted(number: int, noun: str) -> str:
    """`1 resident layer`, `2 resident layers`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _device_side(
    shape: ModelShape, workload: Workload, split: Division, slots: int, *, from_host: bool
) -> dict[str, int]:
    """`from_host`: whether host memory holds layers for this device."""
    resident, streamed, kept, substituted = split.resident, split.streamed, split.kept, split.substituted
    packed = shape.compression
    arrives = packed is not None and (from_host or packed.on_disk) and len(kept) < len(streamed)
    return {
        "embedding and head": shape.embedding_bytes,
        counted(len(resident), "resident layer"): sum(shape.layer_bytes[layer] for layer in resident),
        kept_part(len(kept)): sum(packed.layer_bytes[layer] for layer in kept) if packed else 0,
        ring_of(slots): slots * shape.ring_slot(split),
        "place where layers are restored": shape.restored(split),
        "compressed bytes on their way": packed.buffer_bytes if packed and arrives else 0,
        "conversion of a streamed layer": shape.conversion_bytes if streamed else 0,
        counted(len(substituted), "substitute"): sum(shape.substitute_bytes[layer] for layer in substituted),
        DRAFT: shape.draft_bytes,
        "key-value cache": shape.kv_bytes_per_token * workload.cache_rows,
        DRAFT_CACHE: shape.draft_kv_bytes_per_token * workload.draft_cache_rows,
        "weight rebuilt for a product": shape.rebuilt_bytes,
        WORKING: shape.working_bytes,
        **dict(shape.beside),
    }


def _host_side(
    shape: ModelShape, budgets: Budgets, machine: Machine, linked: Sequence[int]
) -> tuple[tuple[int, ...], dict[str, int]]:
    """The layers that host memory holds for an accelerator, and its bytes; the rest passes through a ring."""
    if not machine.has_accelerator:
        return (), {}
    sizes = tuple(map(shape.pinned_bytes, range(len(shape.layer_bytes))))
    ring = STAGING * max((shape.slot(layer) for layer in linked), default=0)
    pinned = _as_fit(linked, sizes, budgets.host)
    if len(pinned) < len(linked):
        pinned = _as_fit(linked, sizes, _room(ring, budgets.host))
    host = {
        counted(len(pinned), "pinned layer"): sum(sizes[layer] for layer in pinned),
        ring_of(STAGING): ring if len(pinned) < len(linked) else 0,
    }
    return pinned, host
