"""SubSpec: quantized substitutes of the layers that stream draft on the target's own cache."""

from __future__ import annotations

import time

from torch import Tensor
from tqdm import tqdm

from specdecodes.drafters.level import LevelGrower, region_nodes
from specdecodes.drafters.substitute import SubstituteDrafter
from specdecodes.engine.layers import ResidentLayers
from specdecodes.engine.runner import ModelRunner
from specdecodes.errors import BudgetError
from specdecodes.generator import Generator
from specdecodes.methods.assembly import LoadedTarget, Progress, load_target, pace_of
from specdecodes.methods.site import DraftNeeds, Site, place
from specdecodes.models.decoder import JOINED, Decoder
from specdecodes.models.loading import load_tensors
from specdecodes.offload.plan import Placement
from specdecodes.quant import KernelChoice, LayerDone, SubstituteCache, choose_kernel, packed_bytes, substitute


def plan(site: Site) -> Placement:
    """On the kernel that suits a level's width, or on packed int4 where int8 is too big for the budget."""
    choice = choose_kernel(site.pipeline.tree.width, device=site.device)
    try:
        return _plan_on(site, choice)
    except BudgetError:
        if choice.kernel != "int8":
            raise
        return _plan_on(site, KernelChoice("int4pack", f"the faster int8 does not fit; {choice.note}"))


def build(site: Site, placement: Placement, progress: Progress) -> Generator:
    pipeline, tree = site.pipeline, site.pipeline.tree
    target = load_target(site, placement, progress, width=tree.nodes, draft_nodes=region_nodes(tree))
    decoder = draft_of(target, placement.kernel, progress)
    layers = ResidentLayers(decoder.stack)
    runner = ModelRunner(
        decoder, layers, target.runner.cache, site.steps(), width=tree.width, chunk=site.chunk, exact=False
    )
    grower = LevelGrower(runner, tree, pipeline.draft.temperature, site.checkpoint.spec.vocab_size, pace_of(target))
    return target.generator(SubstituteDrafter(grower))


def draft_of(target: LoadedTarget, kernel: str, progress: Progress) -> Decoder:
    """The target with quantized linears where the placement says so; everything else is shared, not copied."""
    site, decoder = target.site, target.decoder
    draft = Decoder(site.checkpoint.spec, site.dtype)
    draft.embedding, draft.norm, draft.head = decoder.embedding, decoder.norm, decoder.head
    cache = SubstituteCache(site.checkpoint.files, notice=progress)
    substituted = target.placement.substituted
    for index in set(range(len(decoder.layers))) - set(substituted):
        draft.layers[index] = decoder.layers[index]
    done: list[LayerDone] = []
    started = time.perf_counter()
    for index in tqdm(substituted, desc="quantized substitutes", unit="layer", leave=False, disable=None):
        _fill(draft, site, index, kernel, cache, done)
    solved = sum(not layer.cached for layer in done)
    seconds = time.perf_counter() - started
    progress(
        f"{len(done)} substitutes on {kernel} in {seconds:.1f} s; {solved} solved anew, the rest from {cache.root}"
    )
    return draft


def _fill(draft: Decoder, site: Site, index: int, kernel: str, cache: SubstituteCache, done: list[LayerDone]) -> None:
    """Give a draft layer quantized linears and its own copy of the small rest (norms)."""
    spec, spans, options = site.checkpoint.spec, site.checkpoint.layer(index), site.pipeline.draft
    linears = spec.linears()

    def weights() -> dict[str, tuple[Tensor, Tensor | None]]:
        """As the file has them, whatever dtype the target runs in: the cached solution serves all."""
        tensors = load_tensors(spans, site.checkpoint.dtype, site.device)
        return {name: (tensors[f"{name}.weight"], tensors.get(f"{name}.bias")) for name in linears}

    modules = substitute(
        weights,
        scheme=options.scheme,
        group=options.group,
        kernel=kernel,
        cache=cache,
        layer=f"layers.{index}",
        device=site.device,
        joined=JOINED,
        on_layer=done.append,
    )
    layer = draft.stack[index]
    layer.substitute(modules)
    replaced = {part for path in modules for part in JOINED.get(path, (path,))}
    kept = {name: span for name, span in spans.items() if name.rpartition(".")[0] not in replaced}
    layer.put(load_tensors(kept, site.dtype, site.device))


def _plan_on(site: Site, choice: KernelChoice) -> Placement:
    tree, spec, options = site.pipeline.tree, site.checkpoint.spec, site.pipeline.draft
    layer = sum(
        packed_bytes(*shape, scheme=options.scheme, group=options.group, kernel=choice.kernel)
        for shape in spec.linears().values()
    )
    substitutes = (layer,) * spec.layers
    return place(site, DraftNeeds(tree.depth, region_nodes(tree), substitutes, choice.kernel, choice.note))
