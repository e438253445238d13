"""Where and how a pipeline runs, found out before anything is loaded; and the plan of its memory."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch

from specdecodes.cache import CacheShape
from specdecodes.config import Pipeline
from specdecodes.engine.compile import Steps, compiled_steps, eager_steps
from specdecodes.errors import BudgetError, ConfigError
from specdecodes.methods.compression import choose
from specdecodes.methods.given import check_quant, resident_alone
from specdecodes.methods.machine import find_device, free_bytes, measure
from specdecodes.methods.outcome import known_acceptance, known_times
from specdecodes.methods.step_times import COLD_BYTES, CONTEXT, Timed, time_level, time_pass
from specdecodes.models.attention import scratch_bytes
from specdecodes.models.families import ModelSpec
from specdecodes.models.loading import DTYPES, Checkpoint, open_checkpoint
from specdecodes.offload.candidates import Budgets, Compression, ModelShape
from specdecodes.offload.layout import lay_out
from specdecodes.offload.plan import Placement, plan
from specdecodes.offload.predict import Machine, Step, StepTimes, Workload
from specdecodes.offload.store import TensorSpan, probe
from specdecodes.offload.stretch import rows_beside, stretches
from specdecodes.offload.working import Widths, working_bytes
from specdecodes.quant import Execution, Rules, Scheme, choose_kernels, main_scheme, packed_bytes
from specdecodes.units import format_bytes

PROMPT_ROWS, WIDE_ROWS = 64, 256
"""Rows of a prompt chunk: of the last ones at least (the width of the usual tree), and of those of a long prompt, where
arithmetic is at its fastest."""


@dataclass(frozen=True)
class Site:
    """Where and how a pipeline runs, found out before anything is loaded."""

    pipeline: Pipeline
    checkpoint: Checkpoint
    device: torch.device
    dtype: torch.dtype
    drafts: bool = False  # an independent draft's, whose target is the draft

    @classmethod
    def of(cls, pipeline: Pipeline, *, drafts: bool = False) -> Site:
        checkpoint = open_checkpoint(pipeline.target.model, pipeline.target.revision)
        check_quant(pipeline.target, checkpoint)
        name, positions = checkpoint.folder.name, checkpoint.spec.max_positions
        if pipeline.max_length > positions:
            raise ConfigError(
                f"max_length is {pipeline.max_length}, but {name} is made for {positions} positions; "
                f"give --max-length {positions} or less, or a checkpoint whose config.json scales its rope further."
            )
        device = find_device(pipeline.target.device)
        dtype = checkpoint.dtype if pipeline.target.dtype == "auto" else DTYPES[pipeline.target.dtype]
        return cls(pipeline, checkpoint, device, dtype, drafts)

    def cache_shape(self, spec: ModelSpec, *, draft_nodes: int, target_nodes: int) -> CacheShape:
        return CacheShape(
            spec.layers, spec.kv_heads, spec.head_dim, self.pipeline.max_length, draft_nodes, target_nodes
        )

    @property
    def chunk(self) -> int:
        """Rows of a prompt chunk, and of the cache behind the committed ones: the same for every method, as exactness
        asks."""
        return max(PROMPT_ROWS, self.pipeline.tree.nodes)

    @property
    def wide(self) -> int:
        """Rows of a chunk of a long prompt, an eighth of the context at most: the same for every method."""
        return max(self.chunk, min(WIDE_ROWS, self.pipeline.max_length // 8))

    @property
    def rules(self) -> Rules:
        """How the target's linears are quantized, by the checkpoint itself or as the pipeline says."""
        target, given = self.pipeline.target, self.checkpoint.rules
        if not given:
            return target.rules
        asked = [
            (path, scheme and replace(scheme, kernel=target.kernel or scheme.kernel)) for path, scheme in given.rules
        ]
        return Rules(tuple(asked))

    @property
    def execution(self) -> Execution:
        """Where the target's quantized linears run."""
        rows = self.pipeline.tree.width if self.drafts else self.pipeline.tree.nodes
        return Execution(str(self.device), rows, draft=self.drafts)

    @property
    def resident_alone(self) -> str:
        """Why the target cannot stream; empty where it can."""
        return resident_alone(self.checkpoint, self.rules, self.execution, self.dtype)

    def exact(self, *, streamed: bool) -> bool:
        """Whether the target computes in exact mode: as the pipeline says; unsaid, where a target is streamed, and
        where it rounds activations, since a last bit that differs may move one of those by a whole step."""
        rounds = any(scheme.activations for scheme in self.rules.schemes)
        return (streamed or rounds) if self.pipeline.exact is None else self.pipeline.exact

    def steps(self) -> Steps:
        return compiled_steps() if self.pipeline.compile else eager_steps()


@dataclass(frozen=True)
class HeadNeeds:
    """A head on the target's features: the `spec` of what its steps run, and the bytes of what it keeps."""

    spec: ModelSpec
    nbytes: int


@dataclass(frozen=True)
class DraftNeeds:
    """What a method's draft adds to the plan: `levels` of drafting at most, tree rows in the target's cache,
    substitutes of the target's layers (packed bytes each) on a kernel, or a model (a site of its own) or a head, and a
    cache; and the `acceptance` a level that is assumed until a run has shown it."""

    levels: int = 0
    nodes: int = 0
    substitute_bytes: tuple[int, ...] = ()
    substitute_all: bool = False
    rules: Rules = Rules(())
    scheme: Scheme | None = None  # under which most of their weights come
    execution: Execution = Execution()
    kernel: str = ""
    kernel_note: str = ""
    model: Site | None = None
    head: HeadNeeds | None = None
    cache: CacheShape | None = None
    acceptance: float = 0.9


def place(site: Site, draft: DraftNeeds) -> Placement:
    """Plan the memory of a target and its draft. Raises BudgetError when the budget cannot work.

    Budgets are for the model: weights, ring, caches, working memory. Python and torch come on top.
    """
    checkpoint, budgets = site.checkpoint, _budgets(site)
    cache = site.cache_shape(checkpoint.spec, draft_nodes=draft.nodes, target_nodes=site.chunk)
    machine = measure(checkpoint.files, site.device)
    workload = Workload(
        cache_rows=cache.slots,
        times=known_times(site.pipeline, draft.kernel) or _step_times(site, draft, budgets),
        levels=draft.levels,
        acceptance=draft.acceptance,
        adaptive=site.pipeline.tree.adaptive,
        draft_cache_rows=draft.cache.slots if draft.cache else 0,
    )
    if (seen := known_acceptance(site.pipeline, draft.kernel)) is not None:
        workload = replace(workload, acceptance=seen[0], acceptance_source=seen[1])
    rows = [
        *_kernel_row("target kernel", site),
        *(_kernel_row("draft model's kernel", draft.model) if draft.model else ()),
    ]

    def attempt(stretch: int, compression: Compression | None) -> Placement:
        prompts = ("prompts", f"{stretch} tokens to a pass of the weights, in chunks of {site.wide}", "")
        found = plan(
            replace(model_shape(site, cache, draft, stretch), compression=compression),
            budgets,
            machine,
            workload,
            storage=probe(checkpoint.files[0]).reason,
            kernel=draft.kernel,
            kernel_note=draft.kernel_note,
            notes=[*rows, prompts],
        )
        return replace(found, stretch=stretch)

    why = site.resident_alone
    *longer, shortest = _stretches(site, draft, workload.times, machine, budgets)

    def planned(compression: Compression | None) -> Placement:
        for stretch in longer:
            with contextlib.suppress(BudgetError):
                return attempt(stretch, compression)
        try:
            return attempt(shortest, compression)
        except BudgetError as error:
            if not why:
                raise
            raise BudgetError(f"{error} {why}", error.shortfall_bytes) from error

    return choose(checkpoint, site.device, site.pipeline.memory.compress, planned)


def _stretches(site: Site, draft: DraftNeeds, times: StepTimes, machine: Machine, budgets: Budgets) -> tuple[int, ...]:
    """How many rows of a prompt a pass may take along, best first: as many as are computed while the weights arrive."""
    spec, given = site.checkpoint.spec, site.rules if site.checkpoint.rules else Rules(())
    nbytes = sum(layers_bytes(site, given, site.execution))
    from_host = machine.has_accelerator and (budgets.host is None or nbytes <= budgets.host)
    seconds = nbytes / ((machine.host_gbps if from_host else machine.disk_gbps) * 1e9)
    rows = site.pipeline.tree.nodes if draft.levels or site.exact(streamed=True) else 1
    return stretches(rows_beside(times, rows, spec.layers, seconds), site.wide, site.pipeline.max_length)


def _kernel_row(what: str, site: Site) -> list[tuple[str, str, str]]:
    choice = choose_kernels(site.rules, site.execution)
    return [(what, choice.note, f"{site.rules}: {choice.kernel}")] if site.rules else []


def _budgets(site: Site) -> Budgets:
    """What may be used: what was asked, as far as it is free. Beside an accelerator both memories have a limit."""
    memory = site.pipeline.memory
    device, source = _allowed(memory.device_bytes, free_bytes(site.device))
    if site.device.type == "cpu":
        return Budgets(device, memory.host_bytes, source)
    host, host_source = _allowed(memory.host_bytes, free_bytes(torch.device("cpu")))
    return Budgets(device, host, source, host_source)


def _allowed(asked: int | None, free: int) -> tuple[int, str]:
    """Bytes of a budget, and where they are from if not from the user."""
    if asked is None:
        return free * 9 // 10, "nine tenths of what is free"
    return (asked, "") if asked <= free else (free, f"all that is free of the {format_bytes(asked)} asked")


def _step_times(site: Site, draft: DraftNeeds, budgets: Budgets) -> StepTimes:
    """The steps of this pipeline, timed at the widths at which they will run."""
    pipeline, tree = site.pipeline, site.pipeline.tree
    room = min(COLD_BYTES, (budgets.device or COLD_BYTES) // 4)
    full = Timed(site.checkpoint.spec, site.dtype, room, site.device)
    target, exact = _timed(full, site), site.exact(streamed=False)
    rows = tree.nodes if exact or draft.levels else 1
    streams = not site.resident_alone and pipeline.exact is not False
    times = StepTimes(
        streamed_pass=time_pass(target, tree.nodes if streams else rows, streams),
        resident_pass=time_pass(target, rows, exact),
        source=f"timed here on layers of this shape, {'uncompiled, ' if pipeline.compile else ''}context {CONTEXT}",
    )
    if not draft.levels:
        return times
    if not exact:
        times = replace(times, one_row=_ratio(target, time_pass(target, 1, False), times.resident_pass))
    model = _own_model(full, draft)
    if model is not None:
        step = time_level(model, tree.width)
        return replace(times, draft_model=_whole(model, step), one_lane=_ratio(model, time_level(model, 1), step))
    if not draft.kernel:
        return times
    model = replace(full, scheme=draft.scheme, execution=draft.execution, kernel=draft.kernel)
    step = time_level(model, tree.width)
    return replace(
        times,
        level=time_level(target, tree.width),
        substitute=step.layer,
        one_lane=_ratio(model, time_level(model, 1), step),
    )


def _own_model(full: Timed, draft: DraftNeeds) -> Timed | None:
    """The draft's model if it is not the target."""
    if draft.model is not None:
        return _timed(replace(full, spec=draft.model.checkpoint.spec, dtype=draft.model.dtype), draft.model)
    return replace(full, spec=draft.head.spec) if draft.head is not None else None


def _whole(model: Timed, step: Step) -> float:
    """Seconds of a step through all layers."""
    return model.spec.layers * step.layer + step.rest


def _ratio(model: Timed, narrow: Step, wide: Step) -> float:
    """What a narrow step takes of a wide one's time; timing is too noisy for more than 1."""
    return min(_whole(model, narrow) / _whole(model, wide), 1.0)


def _timed(model: Timed, site: Site) -> Timed:
    """`model` quantized as most of the site's weights are."""
    spec = site.checkpoint.spec
    scheme = main_scheme(site.rules, spec.linears(), (f"layers.{index}" for index in range(spec.layers)))
    kernel = choose_kernels(site.rules, site.execution).kernel
    return replace(model, scheme=scheme, execution=site.execution, kernel=kernel)


def model_shape(site: Site, cache: CacheShape, draft: DraftNeeds, stretch: int) -> ModelShape:
    """Bytes of every part, from headers alone; `stretch` as in `working_bytes`."""
    spec, checkpoint, itemsize = site.checkpoint.spec, site.checkpoint, site.dtype.itemsize
    layers = [checkpoint.layer(index) for index in range(spec.layers)]
    layer_bytes = layers_bytes(site, site.rules, site.execution)
    widths = Widths(spec.hidden_size, spec.intermediate_size, spec.heads, spec.kv_heads, spec.head_dim, spec.vocab_size)
    working = working_bytes(
        widths,
        rows=site.wide,
        scored=site.pipeline.tree.nodes,
        stretch=stretch,
        slots=cache.slots,
        itemsize=itemsize,
        attention=_attention_bytes(site, cache),
        masks=len(set(spec.windows)),
    )
    kv_token, draft_itemsize = cache.nbytes(itemsize) // cache.slots, (draft.model or site).dtype.itemsize
    quantized = ((site, site.rules, site.execution), (site, draft.rules, draft.execution))
    return ModelShape(
        layer_bytes=layer_bytes,
        embedding_bytes=elements(checkpoint.outer().values()) * itemsize,
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
    )


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
