"""The steps of a pipeline, timed at the widths at which they will run."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from specdecodes.methods.measured.step_times import COLD_BYTES, CONTEXT, Timed, narrower, time_level, time_pass
from specdecodes.methods.needs import DraftNeeds
from specdecodes.methods.site import Site
from specdecodes.offload.planning.predict import Step, StepTimes
from specdecodes.offload.planning.shape import Budgets
from specdecodes.quant import choose_kernels, typical


def timed_steps(site: Site, draft: DraftNeeds, budgets: Budgets) -> StepTimes:
    """The steps of this pipeline, timed at the widths at which they will run."""
    pipeline, tree = site.pipeline, site.pipeline.tree
    room = min(COLD_BYTES, (budgets.device or COLD_BYTES) // 4)
    full = Timed(site.checkpoint.spec, site.dtype, room, site.device)
    target, exact = _timed(full, site), site.exact(streamed=False)
    rows = tree.nodes if exact or draft.levels else 1
    streams = not site.resident_alone and pipeline.exact is not False
    times = StepTimes(
        streamed_pass=time_pass(target, tree.nodes if streams else rows, streams),
        resident_pass=time_pass(target, rows, exact),
        source=f"timed here on layers of this shape, {'uncompiled, ' if pipeline.compile else ''}context {CONTEXT}",
    )
    if not draft.levels:
        return times
    if not exact:
        passes = [(size, time_pass(target, size, False)) for size in narrower(tree.nodes)]
        times = replace(
            times, narrower=tuple((size, _ratio(target, step, times.resident_pass)) for size, step in passes)
        )
    if draft.middle is not None:
        return replace(times, draft_model=1.0 / draft.middle.predicted.tokens_per_second)
    level_of = partial(time_level, params=pipeline.sampling)
    model = _own_model(full, draft)
    if model is not None:
        step = level_of(model, tree.width)
        return replace(times, draft_model=_whole(model, step), one_lane=_ratio(model, level_of(model, 1), step))
    if not draft.kernel:
        return times
    drafted = typical(draft.rules, full.spec.linears(), full.spec.layers)
    model = replace(full, rules=drafted, execution=draft.execution, kernel=draft.kernel)
    step = level_of(model, tree.width)
    return replace(
        times,
        level=level_of(target, tree.width),
        substitute=step.layer,
        one_lane=_ratio(model, level_of(model, 1), step),
    )


def _own_model(full: Timed, draft: DraftNeeds) -> Timed | None:
    """The draft's model if it is not the target."""
    if draft.model is not None:
        return _timed(replace(full, spec=draft.model.checkpoint.spec, dtype=draft.model.dtype), draft.model)
    if draft.head is None or draft.cache is None:
        return None
    return replace(full, spec=draft.head.spec, int8_cache=draft.cache.int8)


def _whole(model: Timed, step: Step) -> float:
    """Seconds of a step through all layers."""
    return model.spec.layers * step.layer + step.rest


def _ratio(model: Timed, narrow: Step, wide: Step) -> float:
    """What a narrow step takes of a wide one's time; timing is too noisy for more than 1."""
    return min(_whole(model, narrow) / _whole(model, wide), 1.0)


def _timed(model: Timed, site: Site) -> Timed:
    """`model` quantized as most of the site's weights are."""
    spec = site.checkpoint.spec
    kernel = choose_kernels(site.rules, site.execution).kernel
    rules = typical(site.rules, spec.linears(), spec.layers)
    return replace(model, rules=rules, execution=site.execution, kernel=kernel, int8_cache=site.int8_cache)
