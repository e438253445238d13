"""Share-SD: one set of modules and one cache at two precisions; the lower one drafts for the higher.

What SubSpec does, with every layer drafted at the draft's precision, whether the target's layer is resident or streamed
and whatever the target's own precision is. Embedding, norms that are not a layer's, head and cache are shared.
"""

from __future__ import annotations

from specdecodes.methods import subspec
from specdecodes.methods.needs import DraftNeeds
from specdecodes.methods.site import Site

drafter, substitutes = subspec.drafter, subspec.substitutes


def needs(site: Site) -> tuple[DraftNeeds, ...]:
    return subspec.needs(site, substitute_all=True)
