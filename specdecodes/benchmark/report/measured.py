"""What the figures show of one method: its samples pooled into the figures that every method gets."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Any

from specdecodes.stats import Generation, summarize

PHASES = {
    "prefill": "reading the prompt",
    "draft": "drafting",
    "target": "computing the pass",
    "wait": "waiting for weights",
    "overhead": "the rest",
}
"""Where the wall clock goes, in the order that figures stack it."""

ROUNDS_A_POINT = 8
"""Rounds in a point of the speed over time: fewer would show the luck of a draft, not the machine."""


@dataclass(frozen=True)
class Measured:
    """The samples of one method: the answers of each, in the order that they were asked. `interval` is the 95%
    interval of its tokens/s."""

    label: str
    samples: tuple[tuple[Generation, ...], ...]
    interval: tuple[float, float] | None = None
    colour: int = 0  # its own through the whole page; 0 is the grey of plain decoding

    @cached_property
    def answers(self) -> tuple[Generation, ...]:
        return tuple(answer for sample in self.samples for answer in sample)

    @cached_property
    def figures(self) -> Mapping[str, Any]:
        """By the names of the results format."""
        return summarize(self.answers)

    @property
    def speed(self) -> float:
        return self.figures["tokens_per_second"]

    @property
    def drafts(self) -> bool:
        return self.figures["draft_levels"] > 0

    def token_seconds(self) -> dict[str, float]:
        """Seconds a new token by phase; together they are one over the speed."""
        tokens, phases = max(self.figures["new_tokens"], 1), self.figures["phase_seconds"]
        return {phase: phases[phase] / tokens for phase in PHASES}

    def round_seconds(self) -> dict[str, float]:
        """Mean seconds a round by phase, prefill left out."""
        rounds, phases = max(self.figures["rounds"], 1), self.figures["phase_seconds"]
        return {phase: phases[phase] / rounds for phase in PHASES if phase != "prefill"}

    def bound_seconds(self) -> float | None:
        """Seconds a token if the link were all there is; None when nothing streams."""
        bound = self.figures["bound_tokens_per_second"]
        return 1.0 / bound if bound else None

    def accepted(self) -> dict[int, float]:
        """Share of the rounds that accepted so many draft tokens: 0, 1, ... up to the most."""
        counts = Counter(round_.accepted for answer in self.answers for round_ in answer.rounds)
        total = max(counts.total(), 1)
        return {number: counts[number] / total for number in range(max(counts, default=0) + 1)}

    def over_time(self, most: int) -> list[tuple[float, float]]:
        """(seconds since the first question, tokens/s) of equal stretches of the clock, `most` at most and each long
        enough for several rounds. What lies between two requests is left out, as in every figure."""
        clock, written = progress(self.answers)
        points = min(most, len(clock) // ROUNDS_A_POINT)
        if points < 2:
            return []
        step = clock[-1] / points
        edges = [at(clock, written, step * place) for place in range(points + 1)]
        return [(step * (place + 0.5), (edges[place + 1] - edges[place]) / step) for place in range(points)]


def progress(answers: Sequence[Generation]) -> tuple[list[float], list[int]]:
    """Seconds and tokens written at the end of every prefill and round, both from 0 on."""
    seconds, tokens = [0.0], [0]
    for answer in answers:
        seconds.append(answer.time_to_first_token_s)
        tokens.append(1)
        # A round's phases leave out what the caller did between two rounds; the request's clock counts it.
        measured = sum(sum(round_.seconds.values()) for round_ in answer.rounds)
        stretch = (answer.total_seconds - answer.time_to_first_token_s) / measured if measured else 1.0
        for round_ in answer.rounds:
            seconds.append(sum(round_.seconds.values()) * stretch)
            tokens.append(len(round_.tokens))
    return list(accumulate(seconds)), list(accumulate(tokens))


def at(clock: Sequence[float], written: Sequence[int], moment: float) -> float:
    """Tokens written at `moment`, those of an unfinished round in proportion."""
    place = next((index for index, end in enumerate(clock) if end >= moment), len(clock) - 1)
    if place == 0:
        return 0.0
    start, end = clock[place - 1], clock[place]
    share = (moment - start) / (end - start) if end > start else 1.0
    return written[place - 1] + min(share, 1.0) * (written[place] - written[place - 1])
