"""Classic speculative decoding: a second, smaller model drafts."""

from __future__ import annotations

from dataclasses import replace

from specdecodes.cache import CacheShape, KVCache
from specdecodes.drafters.independent import IndependentDrafter
from specdecodes.drafters.level import region_nodes
from specdecodes.engine.layers import ResidentLayers
from specdecodes.engine.runner import ModelRunner
from specdecodes.errors import ConfigError
from specdecodes.methods.assembly import LoadedTarget, load_resident
from specdecodes.methods.needs import DraftNeeds
from specdecodes.methods.site import Site
from specdecodes.methods.vocabulary import check_vocabulary
from specdecodes.models.decoder import Decoder
from specdecodes.models.loading import load_outer
from specdecodes.notify import Notify

ACCEPTANCE = 0.8
"""A level, until a run has shown it: another model agrees less often than the target's own weights in few bits."""


def needs(site: Site) -> tuple[DraftNeeds, ...]:
    draft, levels = _draft_site(site), site.pipeline.tree.depth
    check_vocabulary(site, draft)
    return (DraftNeeds(levels, model=draft, cache=_draft_cache(draft), acceptance=ACCEPTANCE),)


def drafter(target: LoadedTarget, progress: Notify) -> IndependentDrafter:
    site = target.site
    draft, tree = _draft_site(site), site.pipeline.tree
    spec = draft.checkpoint.spec
    progress(f"loading the draft {draft.checkpoint.folder.name}")
    decoder = Decoder(spec, draft.dtype)
    load_outer(decoder, draft.checkpoint, site.device)
    load_resident(decoder, draft, range(spec.layers), progress)
    layers = ResidentLayers(decoder.stack)
    cache = KVCache(_draft_cache(draft), draft.dtype, site.device)
    runner = ModelRunner(
        decoder, layers, cache, site.steps(), width=tree.width, chunk=site.chunk, exact=False, wide=site.wide
    )
    return IndependentDrafter(runner, target.grower(runner))


def _draft_site(site: Site) -> Site:
    model = site.pipeline.draft.model
    if model is None:
        raise ConfigError("classic_sd needs a second model; name it with --draft-model or draft.model.")
    target = replace(site.pipeline.target, model=model, revision=None, quant=site.pipeline.draft.spelled)
    return Site.of(replace(site.pipeline, target=target), drafting=site.pipeline.tree.width)


def _draft_cache(draft: Site) -> CacheShape:
    tree = draft.pipeline.tree
    return draft.cache_shape(
        draft.checkpoint.spec, draft_nodes=region_nodes(tree), target_nodes=max(tree.width, draft.chunk)
    )
