"""Embedding, final norm and head, each where a plan has it."""

from __future__ import annotations

from specdecodes.methods.site import Site
from specdecodes.models.decoder import Decoder
from specdecodes.models.kernels.host_rows import page_locked
from specdecodes.models.loading import load_outer
from specdecodes.notify import Notify
from specdecodes.offload.planning.plan import Placement


def load_outer_as_planned(decoder: Decoder, site: Site, placement: Placement, progress: Notify) -> Placement:
    """Load them; gives the placement as it came out: the embedding is on the device where the system refuses to
    page-lock host memory for it. Raises BudgetError if it does not fit there. Not yet run on a GPU."""
    table, spec = None, site.checkpoint.spec
    if placement.rows_from_host:
        table = page_locked((spec.vocab_size, spec.hidden_size), site.dtype, site.device)
        if table is None:
            placement = placement.with_embedding_on_device()
            progress(f"the system refused to page-lock the embedding, which is in {placement.device_name} now.")
    load_outer(decoder, site.checkpoint, site.device, table=table)
    return placement
