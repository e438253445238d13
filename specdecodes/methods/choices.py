"""What other settings would give: each is planned whole, so that what shares the memory is weighed together.

Bits of the draft, the size of the tree and the context take memory from resident layers, and resident layers take bytes
from the stream. All of them rest on the steps of the pipeline as it is, scaled, and on assumptions of how often drafts
are accepted, even where runs have shown more: so they can be compared.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product

from specdecodes.config import Pipeline, apply_overrides
from specdecodes.errors import SpecDecodesError
from specdecodes.methods import method_of
from specdecodes.methods.assembly import plan_on
from specdecodes.methods.site import Site
from specdecodes.offload.planning.alternatives import NEARLY, Alternative
from specdecodes.offload.planning.plan import Placement
from specdecodes.offload.planning.predict import StepTimes

BITS = ("hqq8", "hqq4", "hqq3", "hqq2")
SUBSTITUTED = ("subspec_sd", "share_sd")
"""Methods whose draft is the target's own weights in bits of its own."""


@dataclass(frozen=True)
class Choice:
    """Settings other than the pipeline's, and the plan that they give; without one, why there is none."""

    settings: tuple[str, ...]  # as --set takes them
    plan: Placement | None
    why: str = ""

    @property
    def speed(self) -> float:
        return self.plan.predicted.tokens_per_second if self.plan else 0.0


def others(pipeline: Pipeline, placement: Placement) -> list[Alternative]:
    """One setting changed at a time, then the fastest of bits and trees together, beside a pipeline's `placement`."""
    times, drafts, sizes = placement.times, list(bits(pipeline)), list(trees(pipeline))
    here = planned(pipeline, (), times)
    lengths = [planned(pipeline, settings, times) for settings in contexts(pipeline)]
    single = [planned(pipeline, settings, times) for settings in (*drafts, *sizes)]
    start = Alternative("the settings as they are, by assumptions", here.speed or None, here.why)
    told = [start, *(_told(choice, here) for choice in (*single, *lengths))]
    both = [planned(pipeline, one + other, times) for one, other in product(drafts, sizes)]
    best = max((*single, *both), key=lambda choice: choice.speed, default=here)
    if best.speed <= here.speed * (1 + NEARLY):
        return told
    fastest = Alternative(spelled(best), best.speed, "the fastest of bits and trees together, as assumed")
    return [*told, fastest]


def planned(pipeline: Pipeline, settings: tuple[str, ...], times: StepTimes) -> Choice:
    """The plan of a pipeline with `settings`, from the `times` of the pipeline as it is, and assumptions."""
    try:
        changed = apply_overrides(pipeline, settings)
        steps = scaled(times, pipeline, changed)
        return Choice(settings, plan_on(Site.of(changed), method_of(changed), times=steps))
    except SpecDecodesError as error:
        return Choice(settings, None, str(error).partition(". ")[0])


def scaled(times: StepTimes, base: Pipeline, other: Pipeline) -> StepTimes:
    """Steps of `other`, from those of `base`: substitutes take as long as their bits, a level as its lanes on the line
    through one and all, a pass as its rows on the line through the widest two that were timed."""
    rows, share = times.narrower[-1] if times.narrower else (0, 0.0)
    passes = _on_line(rows, share, base.tree.nodes, other.tree.nodes)
    lanes = _on_line(1, times.one_lane, base.tree.width, other.tree.width) if base.tree.width > 1 else 1.0
    changed = times.scaled(lanes, passes)
    weights = _bits(other) / _bits(base) if times.substitute else 1.0
    return replace(changed, substitute=changed.substitute * weights)


def _on_line(low: int, share: float, whole: int, size: int) -> float:
    """What `size` takes of `whole`, if `low` takes `share` of it."""
    return share + (1.0 - share) * (size - low) / (whole - low)


def _bits(pipeline: Pipeline) -> float:
    return min(scheme.bits_per_weight(4096) for scheme in pipeline.draft.rules.schemes)


def bits(pipeline: Pipeline) -> Iterator[tuple[str, ...]]:
    """Other bits of a draft that is made of the target's own weights."""
    own = pipeline.method in SUBSTITUTED
    return ((f"draft.quant={scheme}",) for scheme in BITS if own and scheme != pipeline.draft.spelled)


def trees(pipeline: Pipeline) -> Iterator[tuple[str, ...]]:
    """Trees of half and of twice the nodes, and of half and of twice the width."""
    tree = pipeline.tree
    if pipeline.method == "vanilla":
        return
    for nodes in (tree.nodes // 4, tree.nodes // 2, tree.nodes * 2):
        if nodes > max(2, pipeline.draft.ngram + 2):
            yield (f"tree.nodes={nodes}",)
    if pipeline.method != "ngram_sd":
        yield from ((f"tree.width={width}",) for width in (tree.width // 2, tree.width * 2) if width)


def contexts(pipeline: Pipeline) -> Iterator[tuple[str, ...]]:
    """Half the context, and two and four times as much, as far as the checkpoint has positions."""
    most = Site.of(pipeline).checkpoint.spec.max_positions
    lengths = (pipeline.max_length // 2, pipeline.max_length * 2, pipeline.max_length * 4)
    return ((f"max_length={length}",) for length in lengths if 2 <= length <= most)


def spelled(choice: Choice) -> str:
    return " ".join(f"--set {setting}" for setting in choice.settings)


def _told(choice: Choice, here: Choice) -> Alternative:
    plan = choice.plan
    if plan is None:
        return Alternative(spelled(choice), None, choice.why)
    layers = len(plan.resident) + len(plan.streamed)
    why = f"{len(plan.resident)} of {layers} layers resident, {plan.predicted.tokens_per_round:.3g} tokens a round"
    nearly = abs(choice.speed - here.speed) <= here.speed * NEARLY
    told = "about as fast" if nearly else "slower" if choice.speed < here.speed else "faster"
    return Alternative(spelled(choice), choice.speed, f"{told}: {why}")
