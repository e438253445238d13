"""Plain decoding: the baseline, with the same placement, streaming and clock as every other method."""

from __future__ import annotations

from specdecodes.drafters.none import NoDrafter
from specdecodes.methods.assembly import LoadedTarget
from specdecodes.methods.needs import DraftNeeds
from specdecodes.methods.site import Site
from specdecodes.notify import Notify


def needs(site: Site) -> tuple[DraftNeeds, ...]:
    return (DraftNeeds(),)


def drafter(target: LoadedTarget, progress: Notify) -> NoDrafter:
    return NoDrafter(target.runner.width, target.site.device)
