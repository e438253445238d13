"""One file per method name: how it plans its memory and how it is wired. The only room that connects all others.

`assembly.py` is what all of them share. `memory` plans what lives where, with what was `measured`; `weights` are those
that come otherwise than the checkpoint has them.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from specdecodes.config import Pipeline
from specdecodes.errors import ConfigError, suggest
from specdecodes.generator import Generator
from specdecodes.methods import classic, eagle, hierspec, ngram, qspec, share, subspec, vanilla
from specdecodes.methods.assembly import Method, load, plan_on
from specdecodes.methods.kernels import build_kernels
from specdecodes.methods.measured.outcome import learn
from specdecodes.methods.site import Site
from specdecodes.methods.weights.compression import to_write
from specdecodes.methods.weights.streams import write
from specdecodes.models.decoder import Decoder
from specdecodes.notify import Notify
from specdecodes.offload.compression.compressed import CompressedLayer
from specdecodes.offload.planning.plan import Placement
from specdecodes.offload.planning.shape import BESIDE

__all__ = ["METHODS", "Method", "build", "compress", "learn", "plan_for"]

UNDRAFTED = ("vanilla", "ngram_sd")
"""Methods without a draft model."""

OWN_DRAFT = ("subspec_sd", "share_sd", "qspec")
"""Methods whose draft is the target's own weights."""

APART = ("classic_sd", "eagle_sd", "hierspec_sd")
"""Methods whose drafts keep keys and values of their own."""


def build(pipeline: Pipeline, placement: Placement | None = None, *, progress: Notify = print) -> Generator:
    """Load and wire a pipeline as `placement` says, which `plan_for` made of it; None plans here.

    `progress` is told each step. Raises SpecDecodesError with cause and cure.
    """
    method, site = method_of(pipeline), Site.of(pipeline)
    build_kernels(site.device)
    target, drafter = load(site, method, placement or plan_on(site, method), progress)
    return target.generator(drafter)


def compress(pipeline: Pipeline, *, progress: Notify = print) -> dict[int, CompressedLayer]:
    """Compressed copies of all layers that the pipeline reads from disk, the missing ones written now; none where it
    reads nothing. Raises SpecDecodesError with cause and cure."""
    how = "alone" if pipeline.memory.compress == "alone" else "on"
    method, site = method_of(pipeline), Site.of(replace(pipeline, memory=replace(pipeline.memory, compress=how)))
    placement = plan_on(site, method)
    if not to_write(placement):
        return {}
    whole = Decoder(site.checkpoint.spec, site.dtype)
    beside = placement.compression is not None and placement.compression.kind == BESIDE
    draft = method.substitutes(site, placement, whole, progress) if beside and method.substitutes else None
    return write(site, placement, draft, progress)


def plan_for(pipeline: Pipeline) -> Placement:
    """What would live where, from configs and file headers alone. Raises BudgetError when it cannot work."""
    method, site = method_of(pipeline), Site.of(pipeline)
    build_kernels(site.device)
    return plan_on(site, method)


def method_of(pipeline: Pipeline) -> Method:
    """The pipeline's method. Raises ConfigError for a name that is none, and for a setting that it has no use for."""
    found, kv = _found(pipeline), pipeline.draft.kv
    if kv != "auto" and pipeline.method not in ("vanilla", *APART):
        raise ConfigError(
            f"draft.kv is {kv}, and a draft of {pipeline.method} keeps no keys and values beside the target's own, "
            f"which decide its answers; leave draft.kv at auto, or take {', '.join(APART[:-1])} or {APART[-1]}."
        )
    return found


def _found(pipeline: Pipeline) -> Method:
    """The same for a middle model, whose own keys and values are a draft's."""
    if pipeline.method not in METHODS:
        raise ConfigError(suggest("method", pipeline.method, METHODS))
    if pipeline.draft.ngram and pipeline.method in UNDRAFTED:
        raise ConfigError(f"draft.ngram adds to the tree of a draft model, and {pipeline.method} has none; write 0.")
    if pipeline.draft.model is not None and pipeline.method in OWN_DRAFT:
        raise ConfigError(
            f"draft.model is {pipeline.draft.model}, and {pipeline.method} drafts with the target's own weights; write "
            "--set draft.model=none, or take classic_sd, whose draft is a second model, or eagle_sd, whose draft is a "
            "head."
        )
    return METHODS[pipeline.method]


METHODS: dict[str, Method] = {
    "vanilla": Method(vanilla.needs, vanilla.drafter),
    "ngram_sd": Method(ngram.needs, ngram.drafter),
    "classic_sd": Method(classic.needs, classic.drafter),
    "eagle_sd": Method(eagle.needs, eagle.drafter),
    "subspec_sd": Method(subspec.needs, subspec.drafter, subspec.substitutes),
    "share_sd": Method(share.needs, share.drafter, share.substitutes),
    "qspec": Method(qspec.needs, qspec.drafter),
    "hierspec_sd": Method(partial(hierspec.needs, _found), partial(hierspec.drafter, _found)),
}
