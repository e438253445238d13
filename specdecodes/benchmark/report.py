"""A benchmark as people see it: a line that moves while it runs, a table at the end."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from specdecodes.units import format_bytes


@contextmanager
def progress_line(console: Console) -> Iterator[Callable[[str], None]]:
    """A last line that each call replaces and that goes away at the end; nothing where `console` is no terminal.

    It draws only when called: a spinner's thread would take its share of what is being measured.
    """
    if not console.is_terminal:
        yield lambda text: None
        return
    with Live(console=console, auto_refresh=False, transient=True) as live:
        yield lambda text: live.update(Text(text, style="dim"), refresh=True)


def summary_table(summary: Mapping[str, Any]) -> Table:
    """The figures of one benchmark, the measured terms of a round among them."""
    table = Table(title=f"{summary['benchmark']}: {summary['method']} on {summary['model']}", title_justify="left")
    table.add_column("measured", no_wrap=True)
    table.add_column("value", justify="right")
    table.add_column("")
    for name, value, note in rows(summary):
        table.add_row(name, value, note)
    return table


def rows(summary: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Name, value and meaning of every figure worth a line; only the counts when no sample was done."""
    failed = len(summary["failed"])
    lines = [("samples", str(summary["samples"]), f"{failed} failed" if failed else "none failed")]
    if not summary["samples"]:
        return lines
    phases = summary["phase_seconds"]
    wall = summary["wall_seconds"] or 1.0
    shares = ", ".join(f"{name} {seconds / wall:.0%}" for name, seconds in phases.items() if seconds > 0)
    lines += [
        ("tokens/s", f"{summary['tokens_per_second']:.2f}", "new tokens / wall clock, prefill included"),
        ("decode tokens/s", f"{summary['decode_tokens_per_second']:.2f}", "prefill excluded"),
        ("tau", f"{summary['tau']:.2f}", "accepted draft tokens per round, bonus excluded"),
        ("tokens/round", f"{summary['tokens_per_round']:.2f}", f"{summary['rounds']} rounds"),
        ("time to first token", f"{summary['time_to_first_token_s']:.2f} s", "mean over requests"),
    ]
    if summary["draft_levels"]:
        drafted = f"{summary['draft_levels'] / summary['rounds']:.1f} levels a round"
        lines.append(("draft step", f"{summary['draft_step_s'] * 1e3:.1f} ms", drafted))
    if summary["bytes_streamed"]:
        per_round = (
            f"{format_bytes(summary['bytes_per_round'])} a round, reading {summary['link_utilization']:.0%} of the time"
        )
        lines.append(("link", f"{summary['link_gbps']:.2f} GB/s", per_round))
    if summary["bound_tokens_per_second"]:
        bound = f"{summary['bound_tokens_per_second']:.2f}"
        lines.append(("bound", bound, "decode tokens/s if the link were all: tokens/round x link / bytes"))
    lines += [
        ("wall clock", f"{summary['wall_seconds']:.1f} s", shares),
        ("peak memory", format_bytes(summary["peak_device_bytes"]), "device; the process's RAM where there is no GPU"),
    ]
    return lines
