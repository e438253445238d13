"""What a plan is made of: bytes of a model's parts, ways to compress them, budgets, and where layers live. Pure
arithmetic."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

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
    embedding_bytes: int  # embedding, head and final norm, which never stream
    kv_bytes_per_token: int
    table_bytes: int = 0  # of those the embedding's, if an accelerator can fetch rows of it from host memory
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
        return without(self.streamed, self.kept)


def without(layers: Sequence[int], others: Collection[int]) -> tuple[int, ...]:
    """Those of `layers` that are not among `others`."""
    gone = set(others)
    return tuple(layer for layer in layers if layer not in gone)
