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
from specdecodes.methods.assembly import LoadedTarget, Progress, load_target
from specdecodes.methods.site import DraftNeeds, Site, place
from specdecodes.models.decoder import Decoder
from specdecodes.models.loading import load_tensors
from specdecodes.offload.plan import Placement
from specdecodes.quant import LayerDone, SubstituteCache, choose_kernel, packed_bytes, substitute


def plan(site: Site) -> Placement:
    return _plan(site)[0]


def build(site: Site, placement: Placement, progress: Progress) -> Generator:
    pipeline, tree, kernel = site.pipeline, site.pipeline.tree, _plan(site)[1]
    choice = choose_kernel(tree.width, device=site.device)
    progress(f"draft kernel {kernel}: {choice.note if kernel == choice.kernel else 'the faster int8 does not fit'}")
    target = load_target(site, placement, progress, width=tree.nodes, draft_nodes=region_nodes(tree))
    decoder = draft_of(target, kernel, progress)
    layers = ResidentLayers(decoder.stack)
    runner = ModelRunner(
        decoder, layers, target.runner.cache, site.steps(), width=tree.width, chunk=site.chunk, exact=False
    )
    grower = LevelGrower(runner, tree, pipeline.draft.temperature, site.checkpoint.spec.vocab_size)
    return target.generator(SubstituteDrafter(grower), kernel=kernel)


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
        on_layer=done.append,
    )
    layer = draft.stack[index]
    kept = {name: span for name, span in spans.items() if name.rpartition(".")[0] not in modules}
    for name, module in modules.items():
        layer.set_submodule(name, module)
    layer.put(load_tensors(kept, site.dtype, site.device))


def _plan(site: Site) -> tuple[Placement, str]:
    """The placement and the kernel: the fastest for a level's width, or packed int4 where that one is too big."""
    try:
        kernel = choose_kernel(site.pipeline.tree.width, device=site.device).kernel
        return _place_on(site, kernel), kernel
    except BudgetError:
        if kernel != "int8":
            raise
        return _place_on(site, "int4pack"), "int4pack"


def _place_on(site: Site, kernel: str) -> Placement:
    tree, spec, options = site.pipeline.tree, site.checkpoint.spec, site.pipeline.draft
    layer = sum(
        packed_bytes(*shape, scheme=options.scheme, group=options.group, kernel=kernel)
        for shape in spec.linears().values()
    )
    return place(site, DraftNeeds(tree.depth, region_nodes(tree), (layer,) * spec.layers))
