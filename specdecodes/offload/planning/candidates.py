"""Every placement worth comparing, and the bytes of its parts. Pure arithmetic.

A streamed layer takes ring space that all of them share, and a substitute where the draft needs one. A resident layer
leaves the stream and needs no substitute; it may keep one all the same, where a cheap draft step is worth more than the
bytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from specdecodes.offload.planning.predict import Workload
from specdecodes.offload.planning.shape import Budgets, Division, ModelShape, without
from specdecodes.offload.planning.work import Machine

STAGING = 2
"""Slots of host memory that layers pass through from disk to an accelerator: one is read while another is copied."""

SLOTS = 2
"""Of a ring, at least: one slot is read while another is computed. A further one holds bytes that arrive while a draft
runs; it costs as much as a resident layer that is drafted by its substitute, and hides as much, or less where drafts
are short."""

WORKING = "working memory"
EMBEDDING, HEAD, EMBEDDING_AND_HEAD = "embedding", "head", "embedding and head"
DRAFT, DRAFT_CACHE = "draft model", "draft's key-value cache"


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
        streamed = without(layers, resident)
        needed = layers if shape.substitute_all else streamed if shape.substitute_bytes else ()
        splits = [Division(resident, streamed, needed)]
        if further := _further(shape, budgets, _with_bytes(shape, budgets, machine, workload, splits[0])):
            splits.append(Division(resident, streamed, tuple(sorted((*needed, *further)))))
        for split in splits:
            least = _with_bytes(shape, budgets, machine, workload, split)
            yield from map(least.with_ring, _rings(least, budgets, workload))
            if split.streamed and shape.compression is not None and shape.compression.keeps:
                yield from _keeping(shape, budgets, machine, workload, split)


def _with_bytes(
    shape: ModelShape, budgets: Budgets, machine: Machine, workload: Workload, split: Division
) -> Candidate:
    """With the smallest ring: of the slots that were asked for, as long as so many layers stream."""
    slots = max(SLOTS, min(workload.ring or SLOTS, len(split.streamed)))
    table = _table_on_host(shape, budgets, machine)
    pinned, host = _host_side(shape, budgets, machine, split.linked, table)
    device = _device_side(shape, workload, split, slots, from_host=bool(pinned), table=table)
    return Candidate(**vars(split), pinned=pinned, device=device, host=host, slots=slots)


def _further(shape: ModelShape, budgets: Budgets, least: Candidate) -> tuple[int, ...]:
    """As many of the resident layers as may have a substitute, too, beside those that must."""
    if not shape.substitute_bytes or shape.substitute_all:
        return ()
    return _as_fit(least.resident, shape.substitute_bytes, _room(least.device_bytes, budgets.device))


def _keeping(
    shape: ModelShape, budgets: Budgets, machine: Machine, workload: Workload, split: Division
) -> Iterator[Candidate]:
    """With as many of the streamed layers as fit kept compressed: all of them, which takes no ring, or fewer."""
    assert shape.compression is not None, "only compressed layers are kept"
    whole = _with_bytes(shape, budgets, machine, workload, replace(split, kept=split.streamed))
    if not whole.shortfall(budgets):
        yield whole
        return
    sizes, first = shape.compression.layer_bytes, split.streamed[0]
    one = _with_bytes(shape, budgets, machine, workload, replace(split, kept=(first,)))
    kept = _as_fit(split.streamed, sizes, _room(one.device_bytes - sizes[first], budgets.device))
    if kept:
        yield _with_bytes(shape, budgets, machine, workload, replace(split, kept=kept))


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


def _table_on_host(shape: ModelShape, budgets: Budgets, machine: Machine) -> int:
    """Bytes of the embedding that host memory holds for an accelerator; 0: none, or no room beside a ring."""
    room = _room(STAGING * _slot(shape, range(len(shape.layer_bytes))), budgets.host)
    return shape.table_bytes if machine.has_accelerator and (room is None or shape.table_bytes <= room) else 0


def _slot(shape: ModelShape, layers: Sequence[int]) -> int:
    """Bytes of a slot that takes each of `layers`."""
    return max((shape.slot(layer) for layer in layers), default=0)


def _device_side(
    shape: ModelShape, workload: Workload, split: Division, slots: int, *, from_host: bool, table: int
) -> dict[str, int]:
    """`from_host`: whether host memory holds layers for this device; `table`: bytes of the embedding that are there."""
    resident, streamed, kept, substituted = split.resident, split.streamed, split.kept, split.substituted
    packed = shape.compression
    arrives = packed is not None and (from_host or packed.on_disk) and len(kept) < len(streamed)
    return {
        HEAD if table else EMBEDDING_AND_HEAD: shape.embedding_bytes - table,
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
    shape: ModelShape, budgets: Budgets, machine: Machine, linked: Sequence[int], table: int
) -> tuple[tuple[int, ...], dict[str, int]]:
    """The layers that host memory holds for an accelerator beside `table` bytes of its embedding, and all its bytes;
    the rest passes through a ring."""
    if not machine.has_accelerator:
        return (), {}
    sizes = tuple(map(shape.pinned_bytes, range(len(shape.layer_bytes))))
    ring = STAGING * _slot(shape, linked)
    pinned = _as_fit(linked, sizes, _room(table, budgets.host))
    if len(pinned) < len(linked):
        pinned = _as_fit(linked, sizes, _room(table + ring, budgets.host))
    host = {
        EMBEDDING: table,
        counted(len(pinned), "pinned layer"): sum(sizes[layer] for layer in pinned),
        ring_of(STAGING): ring if len(pinned) < len(linked) else 0,
    }
    return pinned, host
