"""What a round will cost and yield, from the seconds of its steps; and how far the truth was from it.

    round = levels * draft step + max(bytes still to arrive / link, target compute) + overhead

Bytes that arrive in the ring while drafting are not waited for, so they leave the second term. Levels that are drafted
while the pass waits cost nothing and lengthen the next proposal when all of this one is accepted. A round yields the
accepted tokens and one more. The bound is what the link alone would allow: tokens a round * link / bytes a pass.
Compressed bytes are fewer, and are expanded by the accelerator, or by the cores that compute, to which that is waiting.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from specdecodes.offload.planning.work import Machine, Work, crowded_seconds, link_seconds, stream_seconds

FOUR_OF_FIVE = 1.2816
"""Standard deviations on either side of the mean between which four of five normal figures lie."""

UNTRIED = (
    0.25  # of the logarithm of a speed: how far steps that were timed on a few layers may be from the whole model's
)
USUAL_LANES = 4.0  # alternatives of a level for which an acceptance is assumed
LUCK = 3.5  # by which the odds of an acceptance that is assumed may be better or worse


@dataclass(frozen=True)
class Step:
    """Seconds of a run through the model: of each layer, and of the rest (head, masks, choosing tokens)."""

    layer: float
    rest: float = 0.0

    def scaled(self, factor: float) -> Step:
        return Step(self.layer * factor, self.rest * factor)


@dataclass(frozen=True)
class StepTimes:
    """Seconds of the steps that a round is made of.

    A draft level costs `substitute` for a layer that has one and `level.layer` for one that has not. A pass has two
    widths: one when layers stream, where exact mode sets it, and one when all are resident. Of the latter, passes of
    fewer rows take the shares in `narrower` (rows, share), and a level of one lane takes `one_lane` of a level.
    `source` says how the figures came about, for the plan's table.
    """

    streamed_pass: Step
    resident_pass: Step
    level: Step = Step(0.0)
    substitute: float = 0.0
    draft_model: float = 0.0  # a level of an independent draft
    narrower: tuple[tuple[int, float], ...] = ()
    one_lane: float = 1.0
    source: str = ""

    def draft_step(self, layers: int, substituted: int) -> float:
        """A level of drafting, when `substituted` of the target's `layers` have a substitute."""
        if self.draft_model:
            return self.draft_model
        return substituted * self.substitute + (layers - substituted) * self.level.layer + self.level.rest

    def target_pass(self, layers: int, streamed: int) -> float:
        """The computing of a pass of the target."""
        step = self.streamed_pass if streamed else self.resident_pass
        return layers * step.layer + step.rest

    def scaled(self, draft: float, target: float) -> StepTimes:
        """Draft levels and passes that take `draft` and `target` times as long."""
        return replace(
            self,
            level=self.level.scaled(draft),
            substitute=self.substitute * draft,
            draft_model=self.draft_model * draft,
            streamed_pass=self.streamed_pass.scaled(target),
            resident_pass=self.resident_pass.scaled(target),
        )


def share_of(known: Sequence[tuple[int, float]], size: int, most: int) -> float:
    """What a step of `size` takes of one of `most`, on straight lines between `known` (size, share), the first of them
    of size 1; 1 where nothing is known."""
    for (low, less), (high, more) in pairwise([*known, (most, 1.0)] if size < most else []):
        if size <= high:
            return less + (more - less) * (size - low) / (high - low)
    return 1.0


@dataclass(frozen=True)
class Seen:
    """Means of rounds that were run: draft levels, tokens, and seconds that no other term explains; and the `spread`
    of an answer's speed around what they give, as the standard deviation of its logarithm."""

    levels: float
    tokens: float
    rest_s: float
    spread: float = UNTRIED


@dataclass(frozen=True)
class Workload:
    """What is run: `levels` of drafting at most (0: plain), `least` at least, steps that take `times`, caches of
    `cache_rows` each.

    `cache_rows` counts every row of the cache: the longest context and both tree regions. `acceptance` is the chance
    that the tree holds the target's next token, level by level, and `acceptance_source` says where it is from;
    `adaptive` stops where a further level costs more than it gains. Rounds that were `seen` are expected again.
    `catches_up`: before its first level a draft runs the rows that it missed, which takes about as long as a level; of
    rounds that were seen that is in their levels. `ahead`: the ring, of `ring` slots (None: as many as serve best), is
    filled while drafting.
    """

    cache_rows: int
    times: StepTimes
    levels: int = 0
    acceptance: float = 0.9
    acceptance_source: str = "assumed"
    adaptive: bool = True
    draft_cache_rows: int = 0
    seen: Seen | None = None
    catches_up: bool = False
    ahead: bool = True
    ring: int | None = None
    least: int = 1
    tree: tuple[int, int] | None = None  # width and nodes, which bound the alternatives of a level; None: no such bound


@dataclass(frozen=True)
class Prediction:
    """Expected seconds and tokens of one round. Between `low` and `high` tokens/s lie four answers of five."""

    link_gbps: float  # what streamed bytes arrive at; 0 when nothing streams
    draft_step_s: float
    levels: float  # a mean where rounds were seen
    stream_s: float  # until all streamed layers of a pass have arrived or been restored
    compute_s: float
    round_s: float
    tokens_per_round: float
    tokens_per_second: float
    bound_tokens_per_second: float | None  # None when nothing streams
    wait_s: float = 0.0  # of a pass that stands still for weights
    rest_s: float = 0.0  # beyond draft and pass
    low: float = 0.0
    high: float = 0.0

    @property
    def speed(self) -> str:
        """In words, with the range where one is known."""
        likeliest = f"{self.tokens_per_second:.3g}"
        if not self.high:
            return f"{likeliest} tokens/s"
        low, high = (f"{speed:.0f}" if speed >= 10 else f"{speed:.2g}" for speed in (self.low, self.high))
        return f"{low} to {high} tokens/s, most likely {likeliest}"


def predict(work: Work, machine: Machine, workload: Workload) -> Prediction:
    """The expected round: as rounds were, else at the depth that serves best if the workload is adaptive."""
    if (seen := workload.seen) is not None:
        return _as_seen(at_depth(work, replace(machine, round_seconds=seen.rest_s), workload, seen.levels), seen.tokens)
    fewest = workload.least if workload.adaptive else workload.levels
    depths = range(fewest, workload.levels + 1) if workload.levels else (0,)
    return max((at_depth(work, machine, workload, levels) for levels in depths), key=lambda p: p.tokens_per_second)


def foresee(work: Work, machine: Machine, workload: Workload) -> Prediction:
    """The expected round, with the range in which four answers of five should lie: as far from it as past ones were, or
    as what is assumed and what was timed may be wrong."""
    best = predict(work, machine, workload)
    if workload.seen is not None:
        factor = math.exp(FOUR_OF_FIVE * workload.seen.spread)
        return replace(best, low=best.tokens_per_second / factor, high=best.tokens_per_second * factor)
    worse, better = (
        predict(work, machine, replace(workload, acceptance=acceptance)).tokens_per_second
        for acceptance in doubtful(workload.acceptance)
    )
    factor = math.exp(FOUR_OF_FIVE * UNTRIED)
    return replace(best, low=worse / factor, high=better * factor)


def doubtful(acceptance: float) -> tuple[float, float]:
    """An acceptance that is assumed, with bad and with good luck."""
    bad, good = acceptance / LUCK, acceptance * LUCK
    return bad / (bad + 1.0 - acceptance), good / (good + 1.0 - acceptance)


def at_depth(work: Work, machine: Machine, workload: Workload, levels: float) -> Prediction:
    """The expected round when `levels` levels are drafted in it."""
    draft_step = work.draft_step_s if levels else 0.0
    if levels and workload.catches_up and workload.seen is None:
        draft_step *= (levels + 1.0) / levels
    link, stream = link_seconds(work, machine), stream_seconds(work, machine)
    ahead = min(levels * draft_step, stream * work.ahead_bytes / work.link_bytes) if work.link_bytes else 0.0
    compute = work.compute_s
    wait = max(stream - ahead, crowded_seconds(work, machine)) - compute
    busy = levels * draft_step + compute
    seconds = max(busy + wait + machine.round_seconds, busy)
    tokens = tokens_per_round(_held(workload, levels), levels)
    return Prediction(
        link_gbps=work.link_bytes / link / 1e9 if link else 0.0,
        draft_step_s=draft_step,
        levels=levels,
        stream_s=stream,
        compute_s=compute,
        round_s=seconds,
        tokens_per_round=tokens,
        tokens_per_second=tokens / seconds,
        bound_tokens_per_second=tokens / link if link else None,
        wait_s=wait,
        rest_s=machine.round_seconds,
    )


def _as_seen(prediction: Prediction, tokens: float) -> Prediction:
    """With the tokens that a round was seen to yield, which no acceptance a level need explain."""
    bound = prediction.bound_tokens_per_second
    return replace(
        prediction,
        tokens_per_round=tokens,
        tokens_per_second=tokens / prediction.round_s,
        bound_tokens_per_second=bound and bound / prediction.tokens_per_round * tokens,
    )


def _held(workload: Workload, levels: float) -> float:
    """The acceptance of a level of that many, when a tree has fewer or more alternatives for it than usual: misses
    fall with the square root of how many more there are."""
    if workload.tree is None or not levels:
        return workload.acceptance
    width, nodes = workload.tree
    lanes = min(float(width), (nodes - 1) / levels)
    return max(0.0, 1.0 - (1.0 - workload.acceptance) * math.sqrt(USUAL_LANES / lanes))


def tokens_per_round(acceptance: float, levels: float) -> float:
    """Tokens that a round of `levels` levels yields, bonus included; `levels` may be a mean."""
    if acceptance >= 1.0:
        return 1.0 + levels
    return 1.0 + acceptance * (1.0 - acceptance**levels) / (1.0 - acceptance)


def acceptance_of(tokens: float, levels: float) -> float:
    """The acceptance a level at which rounds of `levels` levels yield `tokens`: the inverse of `tokens_per_round`."""
    low, high = 0.0, 1.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if tokens_per_round(middle, levels) < tokens else (low, middle)
    return low
