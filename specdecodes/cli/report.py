"""Tables for the terminal: the plan before a run, what was measured after it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.table import Table

from specdecodes.tables import ruled

if TYPE_CHECKING:
    from specdecodes.config import Pipeline
    from specdecodes.offload.planning.plan import Placement
    from specdecodes.stats import Generation

PREDICTED = ("term", "predicted", "measured", "ratio", "speed is off by")
TERMS = {
    "link_gbps": ("link, GB/s", 1.0),
    "draft_step_s": ("draft step, ms", 1e3),
    "draft_levels_per_round": ("draft levels a round", 1.0),
    "pass_s": ("pass, ms a round", 1e3),
    "wait_s": ("waiting for weights, ms a round", 1e3),
    "overhead_s": ("overhead, ms a round", 1e3),
    "round_s": ("round, ms", 1e3),
    "tokens_per_round": ("tokens/round", 1.0),
    "decode_tokens_per_second": ("decode tokens/s", 1.0),
    "bound_tokens_per_second": ("bound, tokens/s", 1.0),
}
"""The words for a term of a prediction, and what its value is shown times."""


def plan_table(placement: Placement, pipeline: Pipeline) -> Table:
    """What lives where, and the speed that the plan predicts."""
    table = ruled(f"plan: {pipeline.method} on {pipeline.target.model}", "part", "where", "size", numbers=("size",))
    for row in placement.rows():
        speed = row[0] == "predicted speed"
        part, where, size = map(escape, row)
        shown = size.replace(", ", ",\n")  # a column of numbers is never folded
        style, end = "bold" if speed else None, speed or part.startswith("total")
        table.add_row(part, where, shown, style=style, end_section=end)
    return table


def metrics_table(generations: Sequence[Generation], title: str) -> Table:
    """Every figure of `generations`."""
    from specdecodes.benchmark.results.table import figures_table

    return figures_table(measured(generations), title)


def measured(generations: Sequence[Generation]) -> dict[str, Any]:
    """The figures of `generations` by the names of the results format."""
    import torch

    from specdecodes.benchmark.environment import peak_device_bytes
    from specdecodes.stats import summarize

    device = "cuda" if torch.cuda.is_available() else "cpu"
    return summarize(generations) | {"peak_device_bytes": peak_device_bytes(), "device": device}


def prediction_table(summary: Mapping[str, Any], placement: Placement) -> Table:
    """The plan's terms beside the measured ones."""
    from specdecodes.offload.planning.terms import compare

    table = ruled("plan and measurement", *PREDICTED, numbers=PREDICTED[1:])
    for check in compare(placement.predicted, summary):
        name, scale = TERMS[check.term]
        predicted, measured = (f"{value * scale:,.4g}" for value in (check.predicted, check.measured))
        effect = "" if check.effect is None else f"{check.effect:+.0%}"
        table.add_row(name, predicted, measured, f"{check.ratio:.2f}", effect)
    return table


def one_line(generation: Generation) -> str:
    """The figures of one answer that matter in a chat."""
    speed = f"{len(generation.tokens)} tokens, {generation.tokens_per_second:.2f} tokens/s"
    rounds = f", {generation.tokens_per_round:.1f} a round" if generation.rounds else ""
    kept = f", {generation.cached_tokens} of {generation.prompt_tokens} prompt tokens kept from before"
    ended = {"length": ", stopped at --max-tokens", "context": ", context is full", "interrupted": ", interrupted"}
    return speed + rounds + (kept if generation.cached_tokens else "") + ended.get(generation.finish_reason, "")
