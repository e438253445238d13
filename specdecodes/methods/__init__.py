"""One file per method name: how it plans its memory and how it is wired. The only room that connects all others."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from specdecodes.config import Pipeline
from specdecodes.errors import ConfigError, suggest
from specdecodes.generator import Generator
from specdecodes.methods import classic, eagle, ngram, qspec, share, subspec, vanilla
from specdecodes.methods.assembly import Progress
from specdecodes.methods.outcome import learn
from specdecodes.methods.site import Site
from specdecodes.offload.plan import Placement

__all__ = ["METHODS", "Method", "build", "learn", "plan_for"]


class Method(NamedTuple):
    """`plan` looks at configs and file headers only; `build` loads what the plan says."""

    plan: Callable[[Site], Placement]
    build: Callable[[Site, Placement, Progress], Generator]


METHODS: dict[str, Method] = {
    "vanilla": Method(vanilla.plan, vanilla.build),
    "ngram_sd": Method(ngram.plan, ngram.build),
    "classic_sd": Method(classic.plan, classic.build),
    "eagle_sd": Method(eagle.plan, eagle.build),
    "subspec_sd": Method(subspec.plan, subspec.build),
    "share_sd": Method(share.plan, share.build),
    "qspec": Method(qspec.plan, qspec.build),
}

UNDRAFTED = ("vanilla", "ngram_sd")
"""Methods without a draft model."""


def build(pipeline: Pipeline, placement: Placement | None = None, *, progress: Progress = print) -> Generator:
    """Load and wire a pipeline as `placement` says, which `plan_for` made of it; None plans here.

    `progress` is told each step. Raises SpecDecodesError with cause and cure.
    """
    method, site = _method(pipeline), Site.of(pipeline)
    return method.build(site, placement or method.plan(site), progress)


def plan_for(pipeline: Pipeline) -> Placement:
    """What would live where, from configs and file headers alone. Raises BudgetError when it cannot work."""
    return _method(pipeline).plan(Site.of(pipeline))


def _method(pipeline: Pipeline) -> Method:
    if pipeline.method not in METHODS:
        raise ConfigError(suggest("method", pipeline.method, METHODS))
    if pipeline.draft.ngram and pipeline.method in UNDRAFTED:
        raise ConfigError(f"draft.ngram adds to the tree of a draft model, and {pipeline.method} has none; write 0.")
    return METHODS[pipeline.method]
