"""Tables for the terminal: the plan before a run, what was measured after it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.table import Table

if TYPE_CHECKING:
    from specdecodes.config import Pipeline
    from specdecodes.offload.plan import Placement
    from specdecodes.stats import Generation


def plan_table(placement: Placement, pipeline: Pipeline) -> Table:
    """What lives where, and the speed that the plan predicts."""
    table = Table(title=f"plan: {pipeline.method} on {pipeline.target.model}", title_justify="left")
    for title in ("part", "where", "size"):
        table.add_column(title)
    for row in placement.rows():
        table.add_row(*row)
    return table


def metrics_table(generations: Sequence[Generation], placement: Placement, title: str) -> Table:
    """Every figure of `generations`, with what the plan predicted beside what was measured."""
    from specdecodes.benchmark.environment import peak_device_bytes
    from specdecodes.benchmark.report import rows
    from specdecodes.stats import summarize

    summary = summarize(generations) | {"failed": {}, "peak_device_bytes": peak_device_bytes()}
    table = Table(title=title, title_justify="left")
    table.add_column("measured", no_wrap=True)
    table.add_column("value", justify="right")
    table.add_column("")
    for name, value, note in rows(summary):
        table.add_row(name, value, note)
    return table


def one_line(generation: Generation) -> str:
    """The figures of one answer that matter in a chat."""
    speed = f"{len(generation.tokens)} tokens, {generation.tokens_per_second:.2f} tokens/s"
    rounds = f", {generation.tokens_per_round:.1f} a round" if generation.rounds else ""
    kept = f", {generation.cached_tokens} of {generation.prompt_tokens} prompt tokens kept from before"
    ended = {"length": ", stopped at --max-tokens", "context": ", context is full", "interrupted": ", interrupted"}
    return speed + rounds + (kept if generation.cached_tokens else "") + ended.get(generation.finish_reason, "")
