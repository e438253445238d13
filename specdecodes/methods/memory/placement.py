"""The plan of a pipeline's memory: what lives where, for its target and its draft."""

from __future__ import annotations

import contextlib
from dataclasses import replace

import torch

from specdecodes.config import Middle
from specdecodes.errors import BudgetError
from specdecodes.methods.kernels import shortages
from specdecodes.methods.measured.machine import compressed_tier, free_bytes, measure, streamed_before
from specdecodes.methods.measured.outcome import known_rounds, known_times, made_of
from specdecodes.methods.memory.sizes import layers_bytes, model_shape
from specdecodes.methods.memory.timed_steps import timed_steps
from specdecodes.methods.needs import DraftNeeds
from specdecodes.methods.site import Site
from specdecodes.methods.weights.compression import choose
from specdecodes.methods.weights.disk import disk_rows
from specdecodes.models.loading import Checkpoint
from specdecodes.native import missing_triton
from specdecodes.offload.planning.plan import Placement, plan
from specdecodes.offload.planning.predict import StepTimes, Workload, acceptance_of
from specdecodes.offload.planning.shape import Budgets, Compression
from specdecodes.offload.planning.stretch import rows_beside, stretches
from specdecodes.offload.planning.work import Machine
from specdecodes.offload.storage.store import probe
from specdecodes.quant import Rules, choose_kernels
from specdecodes.units import format_bytes


def place(
    site: Site, draft: DraftNeeds, budgets: Budgets | None = None, *, times: StepTimes | None = None
) -> Placement:
    """Plan the memory of a target and its draft, by the pipeline's budgets if none are given; `times` as in
    `plan_on`. Raises BudgetError when they cannot work.

    Budgets are for the model: weights, ring, caches, working memory. Python and torch come on top.
    """
    checkpoint, budgets = site.checkpoint, budgets or _budgets(site)
    cache = site.cache_shape(checkpoint.spec, draft_nodes=draft.nodes, target_nodes=site.chunk)
    machine = measure(checkpoint.files, site.device)
    workload = _workload(site, draft, cache.slots, budgets, times)
    missing = shortages(site.device)
    rows = [
        *missing,
        *_table_row(site),
        *_host_row(site),
        *_kernel_row("target kernel", site),
        *(_kernel_row("draft model's kernel", draft.model) if draft.model else ()),
        *(_middle_rows(site.pipeline.middle, draft.middle) if draft.middle else ()),
        *disk_rows(checkpoint, site.pipeline.memory.disk_bytes),
        *_model_row(site, draft),
        *_bits_row(site.pipeline.draft.spelled, draft),
        *_kv_row(site, draft),
    ]

    def attempt(stretch: int, compression: Compression | None) -> Placement:
        prompts = ("prompts", f"{stretch} tokens to a pass of the weights, in chunks of {site.wide}", "")
        found = plan(
            replace(model_shape(site, cache, draft, stretch), compression=compression),
            budgets,
            _reading(machine, checkpoint, compression),
            workload,
            storage=probe(checkpoint.files[0]).reason,
            kernel=draft.kernel,
            kernel_note=draft.kernel_note,
            notes=[*rows, prompts],
        )
        return replace(found, stretch=stretch, middle=draft.middle, draft_rules=str(draft.rules))

    why = " ".join([site.resident_alone, *(f"Here runs {run}." for _, run, _ in missing)]).strip()
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

    return choose(site, draft, planned)


def _reading(machine: Machine, checkpoint: Checkpoint, compression: Compression | None) -> Machine:
    """The machine as it reads the files that a plan streams."""
    if compression is None or not compression.on_disk:
        return machine
    known = streamed_before(compressed_tier(compression.kind), checkpoint.files)
    return replace(machine, disk_gbps=known or machine.disk_gbps)


def _workload(site: Site, draft: DraftNeeds, cache_rows: int, budgets: Budgets, times: StepTimes | None) -> Workload:
    """What a round does, by the last runs of this setting where there are any."""
    tree, made = site.pipeline.tree, made_of(draft.kernel, draft.rules)
    workload = Workload(
        cache_rows=cache_rows,
        times=times or known_times(site.pipeline, made) or timed_steps(site, draft, budgets),
        levels=draft.levels,
        least=draft.least,
        acceptance=draft.acceptance,
        adaptive=tree.adaptive,
        tree=(tree.width, tree.nodes) if draft.nodes else None,
        draft_cache_rows=draft.cache.slots if draft.cache else 0,
        catches_up=draft.cache is not None,
        ahead=site.pipeline.memory.ahead,
        ring=site.pipeline.memory.ring,
    )
    known = None if times else known_rounds(site.pipeline, made)
    if known is None:
        return workload
    seen, source = known
    acceptance = acceptance_of(seen.tokens, seen.levels or draft.levels)
    return replace(workload, seen=seen, acceptance=acceptance, acceptance_source=source, tree=None)


def _stretches(site: Site, draft: DraftNeeds, times: StepTimes, machine: Machine, budgets: Budgets) -> tuple[int, ...]:
    """How many rows of a prompt a pass may take along, best first: as many as are computed while the weights arrive."""
    if site.drafting:  # they never arrive
        return (site.wide,)
    spec, given = site.checkpoint.spec, site.rules if site.checkpoint.rules else Rules(())
    nbytes = sum(layers_bytes(site, given, site.execution))
    from_host = machine.has_accelerator and (budgets.host is None or nbytes <= budgets.host)
    seconds = nbytes / ((machine.host_gbps if from_host else machine.disk_gbps) * 1e9)
    rows = site.pipeline.tree.nodes if draft.levels or site.exact(streamed=True) else 1
    return stretches(rows_beside(times, rows, spec.layers, seconds), site.wide, site.pipeline.max_length)


def _kernel_row(what: str, site: Site) -> list[tuple[str, str, str]]:
    choice = choose_kernels(site.rules, site.execution)
    return [(what, choice.note, f"{site.rules}: {choice.kernel}")] if site.rules else []


def _model_row(site: Site, draft: DraftNeeds) -> list[tuple[str, str, str]]:
    model, method = site.pipeline.draft.model, site.pipeline.method
    unused = model is not None and not (draft.model or draft.head or draft.middle)
    return [("draft model", f"not used: {method} drafts without one", str(model))] if unused else []


def _bits_row(asked: str, draft: DraftNeeds) -> list[tuple[str, str, str]]:
    fewer = draft.substitute_bytes and draft.rules and str(draft.rules) != asked
    return [("draft's bits", f"{asked} does not fit", str(draft.rules))] if fewer else []


def _kv_row(site: Site, draft: DraftNeeds) -> list[tuple[str, str, str]]:
    kv, keeps = site.pipeline.draft.kv, draft.cache is not None or draft.middle is not None
    coded = kv != "auto" and keeps and not site.drafting
    return [("draft's keys and values", "8 bits, and a step a row and head", kv)] if coded else []


def _table_row(site: Site) -> list[tuple[str, str, str]]:
    stays = site.table_aside and not site.rows_from_host
    return [("embedding", f"in device memory, not in host RAM: {missing_triton()}", "")] if stays else []


def _host_row(site: Site) -> list[tuple[str, str, str]]:
    given = site.pipeline.memory.host
    if given is None or site.device.type != "cpu" or site.drafting:
        return []
    return [("host budget", "not used: without a GPU --device-memory is the budget of RAM", str(given))]


def _middle_rows(middle: Middle, planned: Placement) -> list[tuple[str, str, str]]:
    return [("middle model", str(middle.model), f"drafted by {middle.method}"), *planned.as_middle()]


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
