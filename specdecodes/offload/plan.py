"""What lives where: memory budgets and a model's shapes in, a table and the predicted speed out. Pure arithmetic.

A streamed layer takes ring space that all of them share, and a substitute where the draft needs one. A resident layer
leaves the stream and needs no substitute; it may keep one all the same, where a cheap draft step is worth more than the
bytes. Of the placements that fit, the fastest is taken, and of nearly equal ones that which streams least: the estimate
is no finer than that, and a resident layer cannot disappoint.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from specdecodes.errors import BudgetError
from specdecodes.offload.predict import Machine, Prediction, Work, Workload, predict
from specdecodes.units import format_bytes

SLOTS = 2
"""One slot is read while another is computed. A third would cost as much as a resident layer and save less."""

_NEARLY = 0.02
_RING = f"ring of {SLOTS} slots"


@dataclass(frozen=True)
class ModelShape:
    """Bytes of a model's parts, in the dtype that it runs in."""

    layer_bytes: tuple[int, ...]
    embedding_bytes: int  # embedding, head and final norm: always resident
    head_bytes: int  # of those, read by every step
    kv_bytes_per_token: int
    working_bytes: int = 0  # activations, masks, logits: see `working_bytes`
    itemsize: int = 2
    slot_bytes: tuple[int, ...] = ()  # of the ring, per layer, as `layout.lay_out` says; empty: two pages a layer more
    conversion_bytes: int = 0  # when streamed layers are converted on arrival: the largest one
    substitute_bytes: tuple[int, ...] = ()  # packed draft layers; empty: the method needs none
    draft_bytes: int = 0  # an independent draft model
    draft_kv_bytes_per_token: int = 0

    def slot(self, layer: int) -> int:
        return self.slot_bytes[layer] if self.slot_bytes else -(-self.layer_bytes[layer] // 4096) * 4096 + 8192


@dataclass(frozen=True)
class Budgets:
    """Bytes that may be used; None is no limit. Without an accelerator both mean RAM and the smaller one counts."""

    device: int | None = None
    host: int | None = None


@dataclass(frozen=True)
class Placement:
    """Where every layer lives, what that takes, and the speed to expect. Layers are indices in order."""

    resident: tuple[int, ...]
    streamed: tuple[int, ...]
    pinned: tuple[int, ...]  # of the streamed: held in host memory
    substituted: tuple[int, ...]  # drafted by a substitute: all streamed ones, perhaps some resident ones
    ring_slots: int
    host_slots: int
    device_bytes: Mapping[str, int]
    host_bytes: Mapping[str, int]
    bytes_per_pass: int
    predicted: Prediction
    device_name: str
    budgets: Budgets
    storage: str

    @property
    def tier(self) -> str:
        """The nearest place that holds the whole model: resident, host or disk."""
        if not self.streamed:
            return "resident"
        return "host" if len(self.pinned) == len(self.streamed) else "disk"

    def rows(self) -> list[tuple[str, str, str]]:
        """(part, where, size) for a table; the last rows are the predicted round."""
        rows = [(part, self.device_name, format_bytes(size)) for part, size in self.device_bytes.items() if size]
        rows.append(_total(self.device_bytes, self.device_name, self.budgets.device))
        if self.host_bytes:
            rows += [(part, "host RAM", format_bytes(size)) for part, size in self.host_bytes.items() if size]
            rows.append(_total(self.host_bytes, "host RAM", self.budgets.host))
        layers = len(self.resident) + len(self.streamed)
        if self.streamed:
            source = f"disk: {self.storage or 'not probed'}" if self.tier == "disk" else "host RAM"
            rows.append(
                (f"streamed a pass: {len(self.streamed)} of {layers} layers", source, format_bytes(self.bytes_per_pass))
            )
        return rows + self._round_rows()

    def _round_rows(self) -> list[tuple[str, str, str]]:
        p = self.predicted
        terms = f"pass {p.stream_s:.3g} s at {p.link_gbps:.2f} GB/s" if self.streamed else f"pass {p.compute_s:.3g} s"
        if p.levels:
            terms = f"{p.levels} draft levels of {p.draft_step_s * 1e3:.3g} ms, {terms}"
        bound = p.bound_tokens_per_second
        limit = f", bound {bound:.3g} tokens/s" if bound is not None else ""
        speed = f"{p.tokens_per_second:.3g} tokens/s"
        return [
            ("predicted round", terms, f"{p.round_s:.3g} s"),
            ("predicted speed", f"{p.tokens_per_round:.3g} tokens a round assumed{limit}", speed),
        ]

    def summary(self) -> str:
        """One line: what is resident, what streams from where, the expected speed."""
        layers = len(self.resident) + len(self.streamed)
        streams = f", {format_bytes(self.bytes_per_pass)} a pass from {self.tier}" if self.streamed else ""
        speed = f"{self.predicted.tokens_per_second:.3g} tokens/s expected"
        total = format_bytes(sum(self.device_bytes.values()))
        return f"{len(self.resident)} of {layers} layers resident{streams}; {total} of {self.device_name}; {speed}"


def plan(shape: ModelShape, budgets: Budgets, machine: Machine, workload: Workload, *, storage: str = "") -> Placement:
    """The fastest placement that fits. `storage` says how the disk is read, for the table.

    Raises BudgetError with the bytes that are short, when even the smallest placement does not fit.
    """
    if not machine.has_accelerator:
        limits = [limit for limit in (budgets.device, budgets.host) if limit is not None]
        budgets = Budgets(min(limits, default=None), None)
    layouts = list(_layouts(shape, budgets, machine, workload))
    fitting = [layout for layout in layouts if layout.shortfall(budgets) == 0]
    if not fitting:
        raise _refusal(min(layouts, key=lambda layout: layout.shortfall(budgets)), budgets, machine)
    predicted = [(predict(_work(shape, layout, workload), machine, workload), layout) for layout in fitting]
    enough = max(prediction.tokens_per_second for prediction, _ in predicted) * (1 - _NEARLY)
    good = [pair for pair in predicted if pair[0].tokens_per_second >= enough]
    best, layout = min(good, key=lambda pair: (len(pair[1].streamed), sum(pair[1].device.values())))
    return Placement(
        resident=layout.resident,
        streamed=layout.streamed,
        pinned=layout.pinned,
        substituted=layout.substituted,
        ring_slots=SLOTS if layout.streamed else 0,
        host_slots=SLOTS if layout.host.get(_RING) else 0,
        device_bytes=layout.device,
        host_bytes=layout.host,
        bytes_per_pass=sum(shape.layer_bytes[layer] for layer in layout.streamed),
        predicted=best,
        device_name=_device_name(machine),
        budgets=budgets,
        storage=storage,
    )


def spread(count: int, total: int) -> tuple[int, ...]:
    """`count` of `total` layers to keep resident: evenly spaced, so that the ring catches up between streamed ones.

    Early layers might serve acceptance better, since an error made there passes through all others; not measured yet.
    """
    return tuple((2 * place + 1) * total // (2 * count) for place in range(count))


@dataclass(frozen=True)
class _Layout:
    """One choice of where the layers live, and the bytes of every part."""

    resident: tuple[int, ...]
    streamed: tuple[int, ...]
    pinned: tuple[int, ...]
    substituted: tuple[int, ...]
    device: dict[str, int]
    host: dict[str, int]

    def shortfall(self, budgets: Budgets) -> int:
        return _over(self.device, budgets.device) + _over(self.host, budgets.host)


def _layouts(shape: ModelShape, budgets: Budgets, machine: Machine, workload: Workload) -> Iterator[_Layout]:
    """Every count of resident layers, with no and with as many of their substitutes as fit."""
    layers = range(len(shape.layer_bytes))
    for count in range(len(layers) + 1):
        resident = spread(count, len(layers))
        streamed = tuple(layer for layer in layers if layer not in set(resident))
        pinned, host = _host_side(shape, budgets, machine, streamed)
        needed = streamed if shape.substitute_bytes else ()
        device = _device_side(shape, machine, workload, resident, streamed, needed)
        yield _Layout(resident, streamed, pinned, needed, device, host)
        if not shape.substitute_bytes or not resident:
            continue
        for kept in range(count, 0, -1):
            both = tuple(sorted({*streamed, *(resident[place] for place in spread(kept, count))}))
            device = _device_side(shape, machine, workload, resident, streamed, both)
            if not _over(device, budgets.device):
                yield _Layout(resident, streamed, pinned, both, device, host)
                break


def _device_side(
    shape: ModelShape,
    machine: Machine,
    workload: Workload,
    resident: Sequence[int],
    streamed: Sequence[int],
    substituted: Sequence[int],
) -> dict[str, int]:
    slot = max((shape.slot(layer) for layer in streamed), default=0)
    runtime = machine.context_bytes if machine.has_accelerator else machine.runtime_bytes
    return {
        "embedding and head": shape.embedding_bytes,
        f"{len(resident)} resident layers": sum(shape.layer_bytes[layer] for layer in resident),
        _RING: SLOTS * slot,
        "conversion of a streamed layer": shape.conversion_bytes if streamed else 0,
        f"{len(substituted)} substitutes": sum(shape.substitute_bytes[layer] for layer in substituted),
        "draft model": shape.draft_bytes,
        "key-value cache": shape.kv_bytes_per_token * workload.cache_rows,
        "draft's key-value cache": shape.draft_kv_bytes_per_token * workload.draft_cache_rows,
        "working memory": shape.working_bytes,
        "Python, torch, compiled code": runtime,
    }


def _host_side(
    shape: ModelShape, budgets: Budgets, machine: Machine, streamed: Sequence[int]
) -> tuple[tuple[int, ...], dict[str, int]]:
    """The streamed layers that host memory holds for an accelerator, and its bytes; the rest passes through a ring."""
    if not machine.has_accelerator:
        return (), {}
    ring = SLOTS * max((shape.slot(layer) for layer in streamed), default=0)
    for count in range(len(streamed), -1, -1):
        pinned = tuple(streamed[place] for place in spread(count, len(streamed)))
        host = {
            f"{count} pinned layers": sum(shape.slot(layer) for layer in pinned),
            _RING: ring if count < len(streamed) else 0,
            "Python, torch, compiled code": machine.runtime_bytes,
        }
        if not count or not _over(host, budgets.host):
            return pinned, host
    raise AssertionError("a count of none ends the loop")


def _work(shape: ModelShape, layout: _Layout, workload: Workload) -> Work:
    """What `predict` needs to know of a layout."""
    weights = sum(shape.layer_bytes) + shape.head_bytes
    replaced = sum(shape.layer_bytes[layer] - shape.substitute_bytes[layer] for layer in layout.substituted)
    return Work(
        draft_bytes=shape.draft_bytes or weights - replaced,
        disk_bytes=sum(shape.layer_bytes[layer] for layer in layout.streamed if layer not in set(layout.pinned)),
        link_bytes=sum(shape.layer_bytes[layer] for layer in layout.streamed),
        ahead_bytes=layout.device[_RING],
        pass_bytes=weights,
        pass_flops=2.0 * workload.rows * weights / shape.itemsize,
    )


def _refusal(layout: _Layout, budgets: Budgets, machine: Machine) -> BudgetError:
    short = [
        (name, flag, part, limit)
        for name, flag, part, limit in (
            (_device_name(machine), "--device-memory", layout.device, budgets.device),
            ("host RAM", "--host-memory", layout.host, budgets.host),
        )
        if limit is not None and _over(part, limit)
    ]
    causes, cures = [], []
    for name, flag, parts, limit in short:
        total = sum(parts.values())
        largest = sorted(parts.items(), key=lambda item: -item[1])[:4]
        listed = ", ".join(f"{part} {format_bytes(size)}" for part, size in largest if size)
        causes.append(
            f"{format_bytes(limit)} of {name} cannot work: the smallest placement takes {format_bytes(total)}, "
            f"{total - limit} bytes more ({listed})"
        )
        cures.append(f"{flag} {math.ceil(total / 2**20)}MiB")
    cure = f"Give at least {' and '.join(cures)}, or a shorter --max-length."
    return BudgetError(f"{'; '.join(causes)}. {cure}", layout.shortfall(budgets))


def _over(parts: Mapping[str, int], limit: int | None) -> int:
    return max(0, sum(parts.values()) - limit) if limit is not None else 0


def _total(parts: Mapping[str, int], name: str, limit: int | None) -> tuple[str, str, str]:
    label = "total" if limit is None else f"total of a budget of {format_bytes(limit)}"
    return label, name, format_bytes(sum(parts.values()))


def _device_name(machine: Machine) -> str:
    return "device memory" if machine.has_accelerator else "RAM"
