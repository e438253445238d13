"""N-gram drafting: the text itself drafts, without a model."""

from __future__ import annotations

from specdecodes.drafters.ngram import NgramDrafter
from specdecodes.methods.assembly import LoadedTarget, pace_of
from specdecodes.methods.needs import DraftNeeds
from specdecodes.methods.site import Site
from specdecodes.notify import Notify

ASSUMED_ACCEPTANCE = 0.3
"""A level, until a run has shown it: prompt lookup's usual tokens a round in conversation are 1.3 to 1.5."""


def needs(site: Site) -> tuple[DraftNeeds, ...]:
    return (DraftNeeds(levels=site.pipeline.tree.depth, acceptance=ASSUMED_ACCEPTANCE),)


def drafter(target: LoadedTarget, progress: Notify) -> NgramDrafter:
    tree = target.site.pipeline.tree
    pace = None if target.runner.exact else pace_of(target)
    return NgramDrafter(tree.nodes, tree.depth, target.site.device, pace)
