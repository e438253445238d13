"""Classic speculative decoding: a second, smaller model drafts."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from specdecodes.cache import CacheShape, KVCache
from specdecodes.drafters.independent import IndependentDrafter
from specdecodes.drafters.level import region_nodes
from specdecodes.engine.layers import ResidentLayers
from specdecodes.engine.runner import ModelRunner
from specdecodes.errors import ConfigError
from specdecodes.generator import Generator
from specdecodes.methods.assembly import Progress, load_resident, load_target
from specdecodes.methods.needs import DraftNeeds
from specdecodes.methods.placement import place
from specdecodes.methods.site import Site
from specdecodes.models.decoder import Decoder
from specdecodes.models.loading import load_outer, load_tokenizer
from specdecodes.offload.plan import Placement


def plan(site: Site) -> Placement:
    draft = _draft_site(site)
    needs = DraftNeeds(levels=site.pipeline.tree.depth, model=draft, cache=_draft_cache(site, draft))
    return place(site, needs)


def build(site: Site, placement: Placement, progress: Progress) -> Generator:
    draft, tree, device = _draft_site(site), site.pipeline.tree, site.device
    spec = draft.checkpoint.spec
    _check_tokenizers(site, draft)
    target = load_target(site, placement, progress, width=tree.nodes)
    progress(f"loading the draft {draft.checkpoint.folder.name}")
    decoder = Decoder(spec, draft.dtype)
    load_outer(decoder, draft.checkpoint, device)
    load_resident(decoder, draft, range(spec.layers), progress)
    layers = ResidentLayers(decoder.stack)
    cache = KVCache(_draft_cache(site, draft), draft.dtype, device)
    runner = ModelRunner(
        decoder, layers, cache, site.steps(), width=tree.width, chunk=site.chunk, exact=False, wide=site.wide
    )
    return target.generator(IndependentDrafter(runner, target.grower(runner)))


def _draft_site(site: Site) -> Site:
    model = site.pipeline.draft.model
    if model is None:
        raise ConfigError("classic_sd needs a second model; name it with --draft-model or draft.model.")
    target = replace(site.pipeline.target, model=model, revision=None, quant=site.pipeline.draft.spelled)
    return Site.of(replace(site.pipeline, target=target), drafts=True)


def _draft_cache(site: Site, draft: Site) -> CacheShape:
    tree = site.pipeline.tree
    return site.cache_shape(
        draft.checkpoint.spec, draft_nodes=region_nodes(tree), target_nodes=max(tree.width, site.chunk)
    )


def _check_tokenizers(site: Site, draft: Site) -> None:
    """The same words under the same ids; what a release adds to them (`<|eom_id|>`) may have other names."""
    ours, theirs = (_words(load_tokenizer(s.checkpoint.folder)) for s in (site, draft))
    if ours != theirs:
        raise ConfigError(
            f"{draft.checkpoint.folder.name} and {site.checkpoint.folder.name} have different vocabularies; "
            "classic_sd needs a draft with the target's tokenizer."
        )


def _words(tokenizer: Any) -> dict[str, int]:
    added = tokenizer.get_added_vocab()
    return {word: index for word, index in tokenizer.get_vocab().items() if word not in added}
