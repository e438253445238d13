"""N-gram drafting: the text itself drafts, without a model."""

from __future__ import annotations

from specdecodes.drafters.ngram import NgramDrafter
from specdecodes.generator import Generator
from specdecodes.methods.assembly import Progress, load_target, pace_of
from specdecodes.methods.needs import DraftNeeds
from specdecodes.methods.placement import place
from specdecodes.methods.site import Site
from specdecodes.offload.plan import Placement

ASSUMED_ACCEPTANCE = 0.3
"""A level, until a run has shown it: prompt lookup's usual tokens a round in conversation are 1.3 to 1.5."""


def plan(site: Site) -> Placement:
    return place(site, DraftNeeds(levels=site.pipeline.tree.depth, acceptance=ASSUMED_ACCEPTANCE))


def build(site: Site, placement: Placement, progress: Progress) -> Generator:
    tree = site.pipeline.tree
    target = load_target(site, placement, progress, width=tree.nodes)
    pace = None if target.runner.exact else pace_of(target)
    return target.generator(NgramDrafter(tree.nodes, tree.depth, site.device, pace))
