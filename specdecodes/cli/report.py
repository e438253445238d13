"""Tables for the terminal: the plan before a run, what was measured after it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.table import Table

if TYPE_CHECKING:
    from specdecodes.config import Pipeline
    from specdecodes.offload.plan import Placement
    from specdecodes.stats import Generation


def plan_table(placement: Placement, pipeline: Pipeline) -> Table:
    """What lives where, and the speed that the plan predicts."""
    table = _table(f"plan: {pipeline.method} on {pipeline.target.model}", "part", "where", "size")
    for row in placement.rows():
        table.add_row(*row)
    return table


def metrics_table(generations: Sequence[Generation], title: str) -> Table:
    """Every figure of `generations`."""
    from specdecodes.benchmark.table import figures_table

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
    from specdecodes.offload.terms import compare

    table = _table("plan and measurement", "term", "predicted", "measured", "ratio", "speed is off by")
    for term in compare(placement.predicted, summary):
        effect = "" if term.effect is None else f"{term.effect:+.0%}"
        table.add_row(term.term, f"{term.predicted:.3g}", f"{term.measured:.3g}", f"{term.ratio:.2f}", effect)
    return table


def one_line(generation: Generation) -> str:
    """The figures of one answer that matter in a chat."""
    speed = f"{len(generation.tokens)} tokens, {generation.tokens_per_second:.2f} tokens/s"
    rounds = f", {generation.tokens_per_round:.1f} a round" if generation.rounds else ""
    kept = f", {generation.cached_tokens} of {generation.prompt_tokens} prompt tokens kept from before"
    ended = {"length": ", stopped at --max-tokens", "context": ", context is full", "interrupted": ", interrupted"}
    return speed + rounds + (kept if generation.cached_tokens else "") + ended.get(generation.finish_reason, "")


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left")
    for column in columns:
        table.add_column(column)
    return table
