"""The sentences of a report: who is faster, by how much, and why. Every number in them is measured."""

from __future__ import annotations

from collections.abc import Sequence

from specdecodes.benchmark.report.drawing import shown
from specdecodes.benchmark.report.measured import PHASES, Measured
from specdecodes.benchmark.results.compare import Identity
from specdecodes.benchmark.results.intervals import Interval


def headline(arms: Sequence[Measured]) -> str:
    """The result in one sentence; the first method is what the others are held against."""
    first, best = arms[0], max(arms, key=lambda arm: arm.speed)
    if len(arms) == 1:
        return f"{first.label} writes {shown(first.speed)} tokens a second"
    if best is first:
        second = max(arms[1:], key=lambda arm: arm.speed)
        return f"No method beats {first.label}: {second.label} reaches {_times(second, first)} of its speed"
    return f"{best.label} is {_times(best, first)} as fast as {first.label}"


def reasons(arms: Sequence[Measured], interval: Interval | None = None) -> list[str]:
    """Why: speeds, tokens a pass, where the time goes, and what the link would allow. `interval` is the 95% interval of
    the fastest method's ratio to the first."""
    first, best = arms[0], max(arms, key=lambda arm: arm.speed)
    sentences = []
    if best is not first:
        sure = f" (95% interval of the ratio: {shown(interval[0])} to {shown(interval[1])})" if interval else ""
        sentences.append(f"{shown(best.speed)} tokens/s against {shown(first.speed)}{sure}.")
    if best.drafts:
        tokens = shown(best.figures["tokens_per_round"])
        sentences.append(f"Each pass over the model yields {tokens} tokens where plain decoding gets one.")
    sentences.append(_spent(best))
    if best.figures["bound_tokens_per_second"]:
        sentences.append(
            f"The link alone would allow {shown(best.figures['bound_tokens_per_second'])} tokens/s; "
            f"it was reading {best.figures['link_utilization']:.0%} of the time."
        )
    return sentences


def sameness(identities: Sequence[Identity], base: str) -> list[str]:
    """Whether the methods said the same, token by token."""
    same = [one for one in identities if not one.partings]
    sentences = []
    if same:
        names = " and ".join(one.label for one in same)
        count = f"{same[0].tokens:,} tokens of {same[0].samples} question{'s' if same[0].samples > 1 else ''}"
        sentences.append(f"{names} said the same as {base}, token for token: {count}.")
    for one in identities:
        if one.partings:
            sentences.append(f"{one.label} parts from {base} in {len(one.partings)} of {one.samples} questions.")
    return sentences


def _times(arm: Measured, base: Measured) -> str:
    return f"{shown(arm.speed / base.speed)}×" if base.speed else "many times"


def _spent(arm: Measured) -> str:
    """The two phases that take most."""
    seconds = arm.token_seconds()
    total = sum(seconds.values()) or 1.0
    (one, most), (two, next_) = sorted(seconds.items(), key=lambda item: -item[1])[:2]
    return f"{most / total:.0%} of its time goes to {PHASES[one]}, {next_ / total:.0%} to {PHASES[two]}."
