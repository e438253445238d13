"""Wiring that every method shares: load what stays, open the stream for the rest, and make a generator of them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from tqdm import tqdm

from specdecodes.cache import KVCache
from specdecodes.drafters import Drafter
from specdecodes.drafters.combined import CombinedDrafter
from specdecodes.drafters.level import LevelGrower, Levels
from specdecodes.drafters.ngram import NgramDrafter
from specdecodes.drafters.pacing.pace import Pace
from specdecodes.drafters.pacing.seconds import Costs
from specdecodes.engine.layers import LayerSource, ResidentLayers, StreamedLayers
from specdecodes.engine.runner import ModelRunner
from specdecodes.errors import BudgetError
from specdecodes.generator import Generator, Origin
from specdecodes.methods.given import receive
from specdecodes.methods.measured.outcome import known_habits, made_of
from specdecodes.methods.memory.placement import place
from specdecodes.methods.needs import DraftNeeds
from specdecodes.methods.site import Site
from specdecodes.methods.weights.outer import load_outer_as_planned
from specdecodes.methods.weights.quantized import load_quantized
from specdecodes.methods.weights.streams import open_stream
from specdecodes.models.decoder import Decoder
from specdecodes.models.loading import load_layers, load_tokenizer
from specdecodes.notify import Notify
from specdecodes.offload.planning.plan import Placement
from specdecodes.offload.planning.predict import StepTimes, share_of
from specdecodes.offload.planning.shape import Budgets
from specdecodes.offload.streaming.slot_stream import SlotStream
from specdecodes.offload.streaming.stream_cuda import CudaLayerStream
from specdecodes.quant import Scheme

STEP, GPU_STEP = 2, 4  # between sizes of a pass to choose from; a GPU takes as long for a few rows as for one
FREE = 1e-6  # seconds of a level that no model drafts


Substitutes = Callable[[Site, Placement, Decoder, Notify], Decoder]


@dataclass(frozen=True)
class LoadedTarget:
    """A target with its weights in place and its stream open."""

    site: Site
    decoder: Decoder
    runner: ModelRunner
    layers: LayerSource
    placement: Placement
    tokenizer: Any
    stream: SlotStream | None
    draft: Decoder | None = None  # the same with quantized linears, of a method that drafts so
    growers: list[LevelGrower] = field(default_factory=list)  # those made so far

    def grower(self, levels: Levels) -> LevelGrower:
        """What grows the pipeline's trees by `levels` of a draft, at the pace that the plan expects, and with the
        habits of the last run."""
        tree, options, vocab = self.site.pipeline.tree, self.site.pipeline.draft, self.decoder.spec.vocab_size
        pace, spare, graphs = pace_of(self), options.ngram, self.site.pipeline.graphs
        grower = LevelGrower(levels, tree, options.temperature, vocab, pace, spare=spare, graphs=graphs)
        draft = made_of(self.placement.kernel, self.placement.draft_rules)
        if known := known_habits(self.site.pipeline, draft, grower.habits):
            grower.resume(known)
        self.growers.append(grower)
        return grower

    def generator(self, drafter: Drafter) -> Generator:
        """The finished generator."""
        pipeline = self.site.pipeline
        origin = Origin(
            method=pipeline.method,
            model=pipeline.target.model,
            dtype=str(self.site.dtype).removeprefix("torch."),
            device=str(self.site.device),
            exact=self.runner.exact,
            kernel=self.placement.kernel if self.placement.substituted else "",
        )
        return Generator(
            self.tokenizer,
            self.runner,
            drafter,
            eos_ids=self.site.checkpoint.eos_ids,
            origin=origin,
            placement=self.placement,
            on_close=self.stream.close if self.stream is not None else lambda: None,
            habits=lambda: self.growers[0].habits if self.growers else {},
        )


class Method(NamedTuple):
    """How a method drafts.

    `needs` says what that takes, from configs and file headers only, the best way first; the first that fits is
    planned. `drafter` loads it for a target that is in place. `substitutes` of the target's layers are there before
    anything streams: it makes, as a placement says, a decoder that shares all else with the target's.
    """

    needs: Callable[[Site], tuple[DraftNeeds, ...]]
    drafter: Callable[[LoadedTarget, Notify], Drafter]
    substitutes: Substitutes | None = None


def plan_on(site: Site, method: Method, budgets: Budgets | None = None, *, times: StepTimes | None = None) -> Placement:
    """Plan the memory of a target and its draft, by the site's own budgets if none are given; `times`: of its
    steps, where neither those nor what past runs have shown are to be asked for. Raises BudgetError."""
    *better, last = method.needs(site)
    for needs in better:
        with contextlib.suppress(BudgetError):
            return place(site, needs, budgets, times=times)
    return place(site, last, budgets, times=times)


def load(
    site: Site, method: Method, placement: Placement, progress: Notify, *, width: int | None = None
) -> tuple[LoadedTarget, Drafter]:
    """A target as planned and what drafts for it, with n-grams grafted onto its trees if the pipeline says so.

    `width` as in `load_target`; None is what the method's passes have.
    """
    pipeline, needs = site.pipeline, method.needs(site)[0]
    rows = width or (pipeline.tree.nodes if needs.levels else 1)
    target = load_target(
        site,
        placement,
        progress,
        width=rows,
        draft_nodes=needs.nodes,
        taps=needs.taps,
        substitutes=method.substitutes,
    )
    drafter = method.drafter(target, progress)
    if needs.levels:
        chosen = pipeline.tree.adaptive or needs.middle is not None
        rehearse_passes(target, progress, every=chosen)
    grafted = pipeline.draft.ngram
    if not grafted or needs.middle is not None:  # whose own draft has them
        return target, drafter
    depth = pipeline.tree.depth + grafted  # along the draft's path and beyond
    return target, CombinedDrafter(drafter, NgramDrafter(pipeline.tree.nodes, depth, site.device), grafted)


def pace_of(target: LoadedTarget) -> Pace:
    """Of a method that drafts, with or without a model: what there is to choose from, and what a plan expects of it."""
    tree, times = target.site.pipeline.tree, target.placement.times
    assert target.placement.basis is not None, "a planned placement knows what it rests on"
    level = target.placement.basis[0].draft_step_s
    widths = {tree.width, 1} if tree.adaptive and level else {tree.width}
    lanes = ((1, times.one_lane),)
    levels = {width: (level or FREE) * share_of(lanes, width, tree.width) for width in widths}
    return Pace(tree, Costs(levels, pass_seconds(target, every=tree.adaptive)))


def pass_seconds(target: LoadedTarget, *, every: bool = True) -> dict[int, float]:
    """What a plan expects of passes, by their rows: all of the tree's nodes, or fewer, but in exact mode, where all
    passes have one width. Without `every` size there is one to decode plainly beside the whole tree's."""
    nodes, plan, times = target.site.pipeline.tree.nodes, target.placement.predicted, target.placement.times
    step = nodes if not every else GPU_STEP if target.site.device.type == "cuda" else STEP
    sizes = [nodes]
    while sizes[-1] > 1 and not target.runner.exact:
        sizes.append(max(1, sizes[-1] // step))
    return {rows: max(plan.stream_s, plan.compute_s * share_of(times.narrower, rows, nodes)) for rows in sizes}


def rehearse_passes(target: LoadedTarget, progress: Notify, *, every: bool) -> None:
    """Compile the passes that a draft may choose from, where there is more than one: no answer waits for them then."""
    sizes = sorted(pass_seconds(target, every=every))
    if len(sizes) > 1 and target.runner.steps.compiled:
        progress(f"compiling passes of {sizes[0]} to {sizes[-1]} rows")
        target.runner.rehearse(sizes, layer_kinds(target.site, set(target.placement.streamed)))


def layer_kinds(site: Site, streamed: Collection[int]) -> list[int]:
    """The first layer of each kind: layers that differ in their linears' schemes, or in how they come, may be compiled
    apart."""
    linears, kinds = site.checkpoint.spec.linears(), dict[tuple[bool, tuple[Scheme | None, ...]], int]()
    for index in range(site.checkpoint.spec.layers):
        schemes = tuple(site.rules.scheme_of(f"layers.{index}.{path}") for path in linears)
        kinds.setdefault((index in streamed, schemes), index)
    return list(kinds.values())


def load_target(
    site: Site,
    placement: Placement,
    progress: Notify,
    *,
    width: int,
    draft_nodes: int = 0,
    taps: Sequence[int] = (),
    substitutes: Substitutes | None = None,
) -> LoadedTarget:
    """Load what `placement` keeps resident; the rest will be streamed. `width`: rows of a verify pass when not
    exact; `taps`: layers whose hidden states the drafter asks for; `substitutes` as in `Method`."""
    checkpoint, pipeline, device = site.checkpoint, site.pipeline, site.device
    tokenizer = load_tokenizer(checkpoint.folder)
    exact = site.exact(streamed=bool(placement.streamed))
    width = pipeline.tree.nodes if exact else width
    decoder = Decoder(checkpoint.spec, site.dtype)
    progress(f"loading {len(placement.resident)} of {checkpoint.spec.layers} layers of {checkpoint.folder.name}")
    placement = load_outer_as_planned(decoder, site, placement, progress)
    load_resident(decoder, site, placement.resident, progress)
    draft = substitutes(site, placement, decoder, progress) if substitutes is not None else None
    layers, stream = _sources(site, decoder, draft, placement, progress)
    if isinstance(stream, CudaLayerStream) and stream.note:
        placement = placement.unlocked(stream.unlocked_bytes)
        progress(f"{stream.note} {placement.predicted.tokens_per_second:.3g} tokens/s are expected now.")
    shape = site.cache_shape(checkpoint.spec, draft_nodes=draft_nodes, target_nodes=site.chunk)
    cache = KVCache(shape, site.dtype, device)
    runner = ModelRunner(
        decoder,
        layers,
        cache,
        site.steps(),
        width=width,
        chunk=site.chunk,
        exact=exact,
        wide=site.wide,
        stretch=placement.stretch,
        taps=taps,
    )
    return LoadedTarget(site, decoder, runner, layers, placement, tokenizer, stream, draft)


def load_resident(decoder: Decoder, site: Site, layers: Sequence[int], progress: Notify) -> None:
    """Load layers to stay, quantized as the site's target says."""
    if site.rules:
        return load_quantized(decoder, site, site.rules, site.execution, layers, progress)
    counted = tqdm(layers, desc="resident layers", unit="layer", leave=False, disable=None)
    return load_layers(decoder, site.checkpoint, counted, site.device)


def _sources(
    site: Site, decoder: Decoder, draft: Decoder | None, placement: Placement, progress: Notify
) -> tuple[LayerSource, SlotStream | None]:
    layers = decoder.stack
    if not placement.streamed:
        return ResidentLayers(layers), None
    if site.rules:
        receive(decoder, placement.streamed, site.checkpoint.spec, site.rules, site.execution)
    stream = open_stream(site, placement, draft, progress)
    return StreamedLayers(layers, placement.streamed, stream), stream
