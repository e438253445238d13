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
    from specdecodes.benchmark.report import rows

    summary = measured(generations)
    table = _table(title, "measured", "value", "")
    table.add_row("new tokens", str(summary["new_tokens"]), _ends(summary))
    table.add_row("prompt tokens", str(summary["prompt_tokens"]), _kept(generations))
    for row in rows(summary)[1:]:  # the first counts samples
        table.add_row(*row)
    if summary["accepted_by_depth"]:
        table.add_row("accepted at depth", "", "1, 2, ...: " + _shares(summary["accepted_by_depth"]))
    return table


def measured(generations: Sequence[Generation]) -> dict[str, Any]:
    """The summary of `generations` by the names of the results format."""
    from specdecodes.benchmark.environment import peak_device_bytes
    from specdecodes.stats import summarize

    return summarize(generations) | {"failed": {}, "peak_device_bytes": peak_device_bytes()}


def prediction_table(summary: Mapping[str, Any], placement: Placement) -> Table:
    """The plan's terms beside the measured ones."""
    from specdecodes.offload.predict import compare

    table = _table("plan and measurement", "term", "predicted", "measured", "ratio")
    for term in compare(placement.predicted, summary):
        table.add_row(term.term, f"{term.predicted:.3g}", f"{term.measured:.3g}", f"{term.ratio:.2f}")
    return table


def one_line(generation: Generation) -> str:
    """The figures of one answer that matter in a chat."""
    speed = f"{len(generation.tokens)} tokens, {generation.tokens_per_second:.2f} tokens/s"
    rounds = f", {generation.tokens_per_round:.1f} a round" if generation.rounds else ""
    kept = f", {generation.cached_tokens} of {generation.prompt_tokens} prompt tokens kept from before"
    ended = {"length": ", stopped at --max-tokens", "context": ", context is full", "interrupted": ", interrupted"}
    return speed + rounds + (kept if generation.cached_tokens else "") + ended.get(generation.finish_reason, "")


def _shares(shares: Sequence[float]) -> str:
    """Percentages by depth; what is nowhere accepted below is said once."""
    deepest = max((depth for depth, share in enumerate(shares, start=1) if share), default=0)
    parts = [f"{share:.0%}" for share in shares[:deepest]]
    return " ".join([*parts, "then none"] if deepest < len(shares) else parts)


def _ends(summary: Mapping[str, Any]) -> str:
    names = {
        "stop": "the model's own end",
        "stop_string": "a stop string",
        "length": "--max-tokens",
        "context": "a full context",
        "interrupted": "Ctrl-C",
    }
    return "ended by " + ", ".join(
        names[reason] if count == 1 else f"{names[reason]} ({count})"
        for reason, count in summary["finish_reasons"].items()
    )


def _kept(generations: Sequence[Generation]) -> str:
    kept = sum(generation.cached_tokens for generation in generations)
    return f"{kept} of them kept in the cache from before" if kept else ""


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left")
    for column in columns:
        table.add_column(column)
    return table
