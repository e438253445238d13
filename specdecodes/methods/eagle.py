"""EAGLE: a head of one layer drafts from the target's hidden states."""

from __future__ import annotations

from dataclasses import replace

from specdecodes.cache import CacheShape, KVCache
from specdecodes.drafters.eagle import EagleDrafter, FeatureLevels
from specdecodes.drafters.level import region_nodes
from specdecodes.engine.layers import ResidentLayers
from specdecodes.engine.runner import ModelRunner
from specdecodes.errors import ConfigError
from specdecodes.methods.assembly import LoadedTarget
from specdecodes.methods.needs import DraftNeeds, HeadNeeds
from specdecodes.methods.site import Site
from specdecodes.models.eagle import EagleHead, EagleSpec
from specdecodes.models.eagle_files import HeadFiles, open_head
from specdecodes.notify import Notify

ACCEPTANCE = 0.8
"""A level, until a run has shown it: SubSpec's authors had 3.9 tokens a round with EAGLE-2 and six levels."""


def needs(site: Site) -> tuple[DraftNeeds, ...]:
    spec, tree = _head_files(site).spec, site.pipeline.tree
    head = HeadNeeds(spec.drafting, spec.elements() * site.dtype.itemsize + _feature_bytes(site, spec))
    cache, taps = _head_cache(site, spec), spec.target_layers
    return (DraftNeeds(tree.depth, head=head, cache=cache, taps=taps, acceptance=ACCEPTANCE),)


def drafter(target: LoadedTarget, progress: Notify) -> EagleDrafter:
    site = target.site
    files, tree = _head_files(site), site.pipeline.tree
    progress(f"loading the head {files.where.name}{', converted from its published form' if files.published else ''}")
    head = EagleHead(files.spec, target.decoder)
    head.put(files.load())
    cache = KVCache(_head_cache(site, files.spec), site.dtype, site.device)
    layers = ResidentLayers(head.stack)
    width = tree.width  # a level's: what was accepted runs in a step that is compiled already
    runner = ModelRunner(head, layers, cache, site.steps(), width=width, chunk=site.chunk, exact=False, wide=site.wide)
    levels = FeatureLevels(head, runner)
    return EagleDrafter(levels, target.grower(levels))


def _head_files(site: Site) -> HeadFiles:
    draft = site.pipeline.draft
    if draft.model is None:
        raise ConfigError("eagle_sd needs an EAGLE head; name its folder or hub id with --draft-model or draft.model.")
    if draft.rules:
        raise ConfigError(f"eagle_sd runs its head in full precision; leave out draft.quant={draft.quant}.")
    return open_head(draft.model, site.checkpoint.spec)


def _head_cache(site: Site, spec: EagleSpec) -> CacheShape:
    tree = site.pipeline.tree
    rows, drafting = max(tree.width, site.chunk), replace(site, drafting=tree.width)
    return drafting.cache_shape(spec.layer, draft_nodes=region_nodes(tree), target_nodes=rows)


def _feature_bytes(site: Site, spec: EagleSpec) -> int:
    """The feature of every token and node; and the hidden states of a whole prompt, its padding included."""
    prompt = site.pipeline.max_length + site.wide
    rows = site.pipeline.max_length + region_nodes(site.pipeline.tree) + prompt * len(spec.target_layers)
    return rows * spec.layer.hidden_size * site.dtype.itemsize
