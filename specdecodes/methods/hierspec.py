"""HierSpec: a middle model verifies what a draft proposes, and the target the chain that comes of it.

The middle model is planned, loaded and run as a target of its own, by any method (`middle.method`), this one included.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from specdecodes.config import Middle, Pipeline
from specdecodes.decode import decode
from specdecodes.drafters.hierarchical import HierarchicalDrafter
from specdecodes.drafters.pacing.stride import Stride
from specdecodes.errors import ConfigError
from specdecodes.methods.assembly import LoadedTarget, Method, load, pass_seconds, plan_on
from specdecodes.methods.needs import DraftNeeds
from specdecodes.methods.site import Site
from specdecodes.methods.vocabulary import check_vocabulary
from specdecodes.notify import Notify
from specdecodes.offload.planning.shape import Budgets

Find = Callable[[Pipeline], Method]

ACCEPTANCE = 0.85
"""Of a token of the chain, until a run has shown it."""

CAUGHT_UP = 4
"""Rows in which the middle model runs what it missed: after a chain that was accepted whole, its end and one more."""


def needs(find: Find, site: Site) -> tuple[DraftNeeds, ...]:
    """The middle model is planned without a budget: it is resident, and counted in the target's plan."""
    middle, tree = _middle_site(site), site.pipeline.tree
    check_vocabulary(site, middle)
    planned = plan_on(middle, find(middle.pipeline), Budgets())
    most = min(tree.depth, tree.nodes - 1)
    least = min(site.pipeline.middle.min_draft_length, most)
    levels = most if tree.adaptive else least
    return (DraftNeeds(levels, middle=planned, least=least, acceptance=ACCEPTANCE),)


def drafter(find: Find, target: LoadedTarget, progress: Notify) -> HierarchicalDrafter:
    site, planned = target.site, target.placement.middle
    assert planned is not None, "the target was planned with its middle model"
    middle = _middle_site(site)
    progress(f"loading the middle model {middle.checkpoint.folder.name}, drafted by {middle.pipeline.method}")
    model, inner = load(middle, find(middle.pipeline), planned, progress, width=CAUGHT_UP)
    expected = planned.predicted
    stride = Stride(
        site.pipeline.tree,
        site.pipeline.middle.min_draft_length,
        expected.round_s,
        expected.tokens_per_round,
        pass_seconds(target),
    )
    return HierarchicalDrafter(model.runner, inner, partial(decode, model.runner, inner), stride)


def _middle_site(site: Site) -> Site:
    """Where the middle model runs, as if it were the target."""
    pipeline, given = site.pipeline, site.pipeline.middle
    if given.model is None:
        raise ConfigError("hierspec_sd needs a middle model; name it with --middle-model or middle.model.")
    middle = Site.of(
        replace(
            pipeline,
            method=given.method,
            target=replace(pipeline.target, model=given.model, revision=None, quant=given.quant),
            middle=given.middle or Middle(),
            tree=given.tree,
            exact=False,
        ),
        drafting=given.tree.nodes,
    )
    ours, theirs = site.checkpoint.spec.vocab_size, middle.checkpoint.spec.vocab_size
    if theirs > ours:
        raise ConfigError(
            f"the middle model {middle.checkpoint.folder.name} has {theirs} tokens and the target {ours}; take one "
            "that has no more than the target."
        )
    return middle
