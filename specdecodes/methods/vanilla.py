"""Plain decoding: the baseline, with the same placement, streaming and clock as every other method."""

from __future__ import annotations

from specdecodes.drafters.none import NoDrafter
from specdecodes.generator import Generator
from specdecodes.methods.assembly import Progress, load_target
from specdecodes.methods.needs import DraftNeeds
from specdecodes.methods.placement import place
from specdecodes.methods.site import Site
from specdecodes.offload.plan import Placement


def plan(site: Site) -> Placement:
    return place(site, DraftNeeds())


def build(site: Site, placement: Placement, progress: Progress) -> Generator:
    target = load_target(site, placement, progress, width=1)
    return target.generator(NoDrafter(target.runner.width, site.device))
