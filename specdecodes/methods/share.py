"""Share-SD: one set of modules and one cache at two precisions; the lower one drafts for the higher.

What SubSpec does, with every layer drafted at the draft's precision, whether the target's layer is resident or streamed
and whatever the target's own precision is. Embedding, norms that are not a layer's, head and cache are shared.
"""

from __future__ import annotations

from specdecodes.generator import Generator
from specdecodes.methods import subspec
from specdecodes.methods.quantized import Progress
from specdecodes.methods.site import Site
from specdecodes.offload.plan import Placement


def plan(site: Site) -> Placement:
    return subspec.plan(site, substitute_all=True)


def build(site: Site, placement: Placement, progress: Progress) -> Generator:
    return subspec.build(site, placement, progress)
