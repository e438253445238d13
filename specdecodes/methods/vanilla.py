"""Plain decoding: the baseline, with the same placement, streaming and clock as every other method."""

from __future__ import annotations

from specdecodes.drafters.none import NoDrafter
from specdecodes.methods.assembly import LoadedTarget, Progress
from specdecodes.methods.needs import DraftNeeds
from specdecodes.methods.site import Site


def needs(site: Site) -> tuple[DraftNeeds, ...]:
    return (DraftNeeds(),)


def drafter(target: LoadedTarget, progress: Progress) -> NoDrafter:
    return NoDrafter(target.runner.width, target.site.device)
