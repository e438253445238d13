"""What lives where: memory budgets and a model's shapes in, a table and the predicted speed out. Pure arithmetic.

Of the placements that fit, the fastest is taken. The estimate is no finer than a few percent, so of nearly equal ones
it is that whose draft is cheapest, since steps that were timed on a few layers take longer in the whole model, and of
those the one that streams least.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from specdecodes.errors import BudgetError
from specdecodes.offload.planning.alternatives import NEARLY, Alternative, neighbours, other_rounds
from specdecodes.offload.planning.candidates import (
    DRAFT,
    DRAFT_CACHE,
    EMBEDDING,
    EMBEDDING_AND_HEAD,
    HEAD,
    WORKING,
    Candidate,
    candidates,
    counted,
    over,
)
from specdecodes.offload.planning.predict import Prediction, Step, StepTimes, Workload, doubtful, foresee, predict
from specdecodes.offload.planning.refusal import refusal
from specdecodes.offload.planning.shape import BESIDE, Budgets, Compression, ModelShape
from specdecodes.offload.planning.work import Machine, Work
from specdecodes.units import format_bytes

_WORTH_A_ROW = (
    "target kernel",
    "draft model",
    "draft model's kernel",
    "draft kernel",
    "draft acceptance",
    "middle model",
)
"""Notes that the plan of the model above a middle model repeats."""


@dataclass(frozen=True)
class Placement:
    """Where every layer lives, what that takes, and the speed to expect. Layers are indices in order."""

    resident: tuple[int, ...]
    streamed: tuple[int, ...]
    pinned: tuple[int, ...]  # of the streamed: held in host memory
    substituted: tuple[int, ...]  # drafted by a substitute: all streamed ones, perhaps some resident ones
    ring_slots: int
    device_bytes: Mapping[str, int]
    host_bytes: Mapping[str, int]
    bytes_per_pass: int
    predicted: Prediction
    device_name: str
    budgets: Budgets
    storage: str
    times: StepTimes = StepTimes(Step(0.0), Step(0.0))  # that the prediction rests on
    kernel: str = ""  # what substitutes run on; empty where the method has none
    draft_rules: str = ""  # how they are quantized
    notes: tuple[tuple[str, str, str], ...] = ()  # further rows of the table: what runs, what is measured or assumed
    rejected: tuple[Alternative, ...] = ()
    stretch: int = 0  # rows of a prompt that a pass of the weights takes along
    compression: Compression | None = None  # None: what streams, streams as it is
    whole_bytes: int = 0  # of the layers that a link brings, when they have arrived
    basis: tuple[Work, Machine, Workload] | None = None  # of the prediction
    kept: tuple[int, ...] = ()  # of the streamed: compressed in the device's memory, so no link brings them
    kept_bytes: int = 0  # of those layers when they are restored
    middle: Placement | None = None  # of a middle model and its draft, whose bytes are counted here

    def unlocked(self, nbytes: int) -> Placement:
        """The same, expected to be slower: the system refused to page-lock `nbytes` of what streams a pass."""
        assert self.basis is not None, "a planned placement knows what it rests on"
        work, machine, workload = self.basis
        work = replace(work, unlocked_bytes=nbytes)
        row = ("not page-locked", "host RAM, copied twice", format_bytes(nbytes))
        return replace(
            self,
            predicted=foresee(work, machine, workload),
            notes=(*self.notes, row),
            basis=(work, machine, workload),
        )

    @property
    def rows_from_host(self) -> bool:
        """Whether the embedding lies in host memory, from where an accelerator fetches the rows that it needs."""
        return bool(self.host_bytes.get(EMBEDDING))

    def with_embedding_on_device(self) -> Placement:
        """The same, where the system refused to page-lock the embedding. Raises BudgetError if there is no room."""
        table, host = self.host_bytes[EMBEDDING], dict(self.host_bytes)
        del host[EMBEDDING]
        device = {
            **{EMBEDDING_AND_HEAD if part == HEAD else part: size for part, size in self.device_bytes.items()},
            EMBEDDING_AND_HEAD: self.device_bytes[HEAD] + table,
        }
        if short := over(device, self.budgets.device):
            raise BudgetError(
                f"the system refused to page-lock the embedding, {format_bytes(table)}, and {self.device_name} lacks "
                f"{format_bytes(short)} for it. Raise the limit of locked memory (ulimit -l) or --device-memory.",
                short,
            )
        return replace(self, device_bytes=device, host_bytes=host)

    @property
    def tier(self) -> str:
        """The nearest place that holds the whole model: resident (some of it compressed, perhaps), host or disk."""
        if not self.linked:
            return "resident"
        return "host" if len(self.pinned) == self.linked else "disk"

    @property
    def comes_as(self) -> str:
        """How what a link brings is compressed, ALONE or BESIDE; empty where it comes as it is."""
        return self.compression.kind if self.compression and self.bytes_per_pass < self.whole_bytes else ""

    @property
    def linked(self) -> int:
        """Layers that a link brings."""
        return len(self.streamed) - len(self.kept)

    def rows(self) -> list[tuple[str, str, str]]:
        """(part, where, size) for a table; the last rows are the predicted round and what it rests on."""
        rows = [(part, self.device_name, format_bytes(size)) for part, size in self.device_bytes.items() if size]
        rows.append(_total(self.device_bytes, self.device_name, self.budgets.device, self.budgets.source))
        if self.host_bytes:
            rows += [(part, "host RAM", format_bytes(size)) for part, size in self.host_bytes.items() if size]
            rows.append(_total(self.host_bytes, "host RAM", self.budgets.host, self.budgets.host_source))
        return [*rows, *self._stream_rows(), *self._round_rows(), *self.notes]

    def _stream_rows(self) -> list[tuple[str, str, str]]:
        """What arrives in a pass, and what is restored."""
        rows, layers = [], len(self.resident) + len(self.streamed)
        if self.linked:
            source = f"disk: {self.storage or 'not probed'}" if self.tier == "disk" else "host RAM"
            part = f"streamed a pass: {self.linked} of {counted(layers, 'layer')}"
            rows.append((part, source, format_bytes(self.bytes_per_pass)))
        if self.compression is None:
            return rows
        c, each = self.compression, "" if self.host_bytes else " a core"
        beside = ", beside substitutes" if c.kind == BESIDE else ""
        rate = f"{c.gbps:.3g} GB/s{each} by {c.way}{beside}, {c.source}"
        if self.comes_as:
            share = f"{self.bytes_per_pass / self.whole_bytes:.1%}"
            rows.append((f"compressed from {format_bytes(self.whole_bytes)}", rate, share))
        if self.kept:
            kept = f"restored a pass: {counted(len(self.kept), 'kept layer')}"
            rows.append((kept, rate if len(rows) < 2 else "likewise", format_bytes(self.kept_bytes)))
        return rows

    def _round_rows(self) -> list[tuple[str, str, str]]:
        p = self.predicted
        terms = f"pass {p.compute_s:.3g} s of computing"
        if self.streamed:
            terms += f" beside {p.stream_s:.3g} s of streaming at {p.link_gbps:.2f} GB/s"
        if p.draft_step_s:
            levels = f"{p.levels:.3g} draft level" + ("" if p.levels == 1 else "s")
            terms = f"{levels} of {p.draft_step_s * 1e3:.3g} ms, {terms}"
        bound = p.bound_tokens_per_second
        limit = f", bound {bound:.3g} tokens/s" if bound is not None else ""
        tokens = "1 token a round" if p.tokens_per_round == 1 else f"{p.tokens_per_round:.3g} tokens a round"
        return [
            ("predicted round", terms, f"{p.round_s:.3g} s"),
            ("predicted speed", f"{tokens}{limit}", p.speed),
        ]

    def parts_as_middle(self) -> dict[str, int]:
        """Bytes of the parts as the plan of the model above counts them; the innermost draft's keep their names."""
        kept = (DRAFT, DRAFT_CACHE, WORKING)
        return {part if part in kept else f"middle's {part}": size for part, size in self.device_bytes.items() if size}

    def as_middle(self) -> list[tuple[str, str, str]]:
        """Rows for the table of the model above: the round to expect, and what it rests on."""
        notes = [note for note in self.notes if note[0] in _WORTH_A_ROW or note[0].startswith("middle's")]
        return [(f"middle's {part}", where, size) for part, where, size in (*self._round_rows(), *notes)]

    def summary(self) -> str:
        """One line: what is resident, what streams from where, the expected speed."""
        layers = len(self.resident) + len(self.streamed)
        streams = f", {len(self.kept)} kept compressed" if self.kept else ""
        if self.linked:
            streams += f", {format_bytes(self.bytes_per_pass)} a pass from {self.tier}"
        if self.comes_as:
            streams += f", compressed from {format_bytes(self.whole_bytes)}"
        speed = f"expected {self.predicted.speed}"
        total = format_bytes(sum(self.device_bytes.values()))
        return f"{len(self.resident)} of {layers} layers resident{streams}; {total} of {self.device_name}; {speed}"


def plan(
    shape: ModelShape,
    budgets: Budgets,
    machine: Machine,
    workload: Workload,
    *,
    storage: str = "",
    kernel: str = "",
    kernel_note: str = "",
    notes: Sequence[tuple[str, str, str]] = (),
) -> Placement:
    """The fastest placement that fits. `storage` says how the disk is read, `kernel_note` why the substitutes run on
    `kernel`, both for the table; `notes` are further rows of it.

    Raises BudgetError with the bytes that are short, when even the smallest placement does not fit.
    """
    if not machine.has_accelerator:
        limits = [limit for limit in (budgets.device, budgets.host) if limit is not None]
        budgets = Budgets(min(limits, default=None), None, budgets.source)
    everything = list(candidates(shape, budgets, machine, workload))
    fitting = [candidate for candidate in everything if candidate.shortfall(budgets) == 0]
    if not fitting:
        raise refusal(min(everything, key=lambda candidate: candidate.shortfall(budgets)), budgets, machine)
    predicted = [(predict(_work(shape, candidate, workload), machine, workload), candidate) for candidate in fitting]
    enough = max(prediction.tokens_per_second for prediction, _ in predicted) * (1 - NEARLY)
    good = [pair for pair in predicted if pair[0].tokens_per_second >= enough]
    best, chosen = min(good, key=lambda pair: (round(pair[0].draft_step_s, 6), *_streaming(pair[1])))
    others = neighbours(everything, chosen, budgets, {id(candidate): p for p, candidate in predicted})
    work = _work(shape, chosen, workload)
    return Placement(
        resident=chosen.resident,
        streamed=chosen.streamed,
        pinned=chosen.pinned,
        substituted=chosen.substituted,
        ring_slots=chosen.slots if chosen.streamed else 0,
        device_bytes=chosen.device,
        host_bytes=chosen.host,
        bytes_per_pass=work.link_bytes,
        predicted=foresee(work, machine, workload),
        device_name=machine.memory,
        budgets=budgets,
        storage=storage,
        times=workload.times,
        kernel=kernel,
        notes=(*notes, *_notes(machine, workload, kernel if chosen.substituted else "", kernel_note)),
        rejected=(*others, *other_rounds(work, machine, workload, best.levels)),
        basis=(work, machine, workload),
        compression=shape.compression if work.expand_s else None,
        kept=chosen.kept,
        whole_bytes=sum(shape.layer_bytes[layer] for layer in chosen.linked),
        kept_bytes=sum(shape.layer_bytes[layer] for layer in chosen.kept),
    )


def _streaming(candidate: Candidate) -> tuple[int, ...]:
    """What is least where least streams: layers that a link brings, layers that pass the ring, bytes taken."""
    return len(candidate.linked), len(candidate.streamed), candidate.device_bytes


def _work(shape: ModelShape, candidate: Candidate, workload: Workload) -> Work:
    """What `predict` needs to know of a candidate."""
    layers, pinned, times = len(shape.layer_bytes), set(candidate.pinned), workload.times
    arriving = {layer: shape.arriving(layer, pinned=layer in pinned) for layer in candidate.linked}
    passing = candidate.linked if shape.compression and shape.compression.apart else candidate.streamed
    restored = sum(shape.layer_bytes[layer] for layer, size in arriving.items() if size != shape.layer_bytes[layer])
    in_memory = sum(shape.layer_bytes[layer] for layer in candidate.kept)
    rate = shape.compression.gbps * 1e9 if shape.compression else math.inf
    return Work(
        draft_step_s=times.draft_step(layers, len(candidate.substituted)),
        compute_s=times.target_pass(layers, len(candidate.streamed)),
        disk_bytes=sum(size for layer, size in arriving.items() if layer not in pinned),
        link_bytes=sum(arriving.values()),
        ahead_bytes=candidate.slots * sum(arriving.values()) // max(len(passing), 1) if workload.ahead else 0,
        expand_s=(restored + in_memory) / rate,
        kept_s=in_memory / rate,
    )


def _notes(machine: Machine, workload: Workload, kernel: str, kernel_note: str) -> list[tuple[str, str, str]]:
    """The rows below the prediction: what it rests on, and what no budget counts."""
    notes = [("step times", workload.times.source, "")]
    if kernel:
        notes.insert(0, ("draft kernel", kernel_note, kernel))
    notes.append(("range of speeds", _range_basis(workload), "4 answers of 5"))
    if workload.levels:
        share = f"{workload.acceptance:.3g} a level"
        notes.append(("draft acceptance", workload.acceptance_source, share))
    if machine.process_bytes:
        notes.append(("Python and torch", "RAM, not counted in a budget", f"{format_bytes(machine.process_bytes)} now"))
    return notes


def _range_basis(workload: Workload) -> str:
    if workload.seen is not None:
        return "as far apart as past answers and predictions were"
    if not workload.levels:
        return "steps were timed on a few layers"
    low, high = doubtful(workload.acceptance)
    return f"acceptance may be {low:.2g} to {high:.2g} a level; steps were timed on a few layers"


def _total(parts: Mapping[str, int], name: str, limit: int | None, source: str) -> tuple[str, str, str]:
    label = "total" if limit is None else f"total of a budget of {format_bytes(limit)}"
    return label + (f" ({source})" if source and limit is not None else ""), name, format_bytes(sum(parts.values()))
