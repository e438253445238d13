"""The figures of a run as one table, the same after an answer, a chat and a benchmark."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.table import Table

from specdecodes.tables import ruled
from specdecodes.units import format_bytes

Row = tuple[str, str, str]

HEADLINE = "tokens/s"

ENDINGS = {
    "stop": "the model's own end",
    "stop_string": "a stop string",
    "length": "--max-tokens",
    "context": "a full context",
    "interrupted": "Ctrl-C",
}


def figures_table(summary: Mapping[str, Any], title: str) -> Table:
    """`rows` of a summary, under `title`."""
    table = ruled(title, "measured", "value", "", numbers=("value",))
    for row in rows(summary):
        table.add_row(*row, style="bold" if row[0] == HEADLINE else None)
    return table


def category_table(summary: Mapping[str, Any]) -> Table | None:
    """The figures of each task of a benchmark that reports them one by one; None for any other."""
    if not summary.get("tasks") or not summary["by_category"]:
        return None
    names = ["samples", "tokens/s", "tau", "tokens/round", *(["score"] if summary["scored"] else [])]
    table = ruled(f"{summary['benchmark']}, task by task", "task", *names, numbers=names)
    for category, part in summary["by_category"].items():
        figures = [str(part["samples"])]
        figures += [f"{part[name]:.2f}" for name in ("tokens_per_second", "tau", "tokens_per_round")]
        table.add_row(category, *figures, *([_score(part)] if summary["scored"] else []))
    return table


def rows(summary: Mapping[str, Any]) -> list[Row]:
    """Name, value and meaning of every figure worth a line; only counts when nothing was answered.

    Takes a benchmark's summary, and one of `stats.summarize` alone, which lacks samples, scores and intervals.
    """
    lines: list[Row] = []
    if "failed" in summary:
        failed = len(summary["failed"])
        lines.append(("samples", str(summary["samples"]), f"{failed} failed" if failed else "none failed"))
    if not summary.get("new_tokens"):
        return lines
    return [*lines, *_counts(summary), *_speeds(summary), *_streaming(summary), *_costs(summary)]


def _counts(summary: Mapping[str, Any]) -> Iterator[Row]:
    kept = summary["cached_tokens"]
    yield "new tokens", str(summary["new_tokens"]), _ends(summary["finish_reasons"])
    yield (
        "prompt tokens",
        str(summary["prompt_tokens"]),
        f"{kept} of them kept in the cache from before" if kept else "",
    )
    if summary.get("scored"):
        note = f"mean of {summary['scored']} scored samples" + _between(summary["score_interval"], ".1%")
        yield "score", _score(summary), note


def _speeds(summary: Mapping[str, Any]) -> Iterator[Row]:
    speed = "new tokens / wall clock, prefill included" + _between(summary.get("tokens_per_second_interval"))
    yield "tokens/s", f"{summary['tokens_per_second']:.2f}", speed
    if summary.get("tokens_per_second_sample_mean_interval"):
        note = "mean of the samples' own" + _between(summary["tokens_per_second_sample_mean_interval"])
        yield "tokens/s of a sample", f"{summary['tokens_per_second_sample_mean']:.2f}", note
    yield (
        "decode tokens/s",
        f"{summary['decode_tokens_per_second']:.2f}",
        "prefill excluded" + _between(summary.get("decode_tokens_per_second_interval")),
    )
    tau = "accepted draft tokens per round, bonus excluded" + _between(summary.get("tau_interval"))
    yield "tau", f"{summary['tau']:.2f}", tau
    yield "tokens/round", f"{summary['tokens_per_round']:.2f}", f"{summary['rounds']} rounds"
    levels = summary.get("acceptance_per_level", ())
    for level in levels if len(levels) > 1 else ():
        yield f"accepted by the {level['level']}", f"{level['tau']:.2f}", per_level(level)
    if any(summary["accepted_by_depth"]):
        yield "accepted at depth", "", "1, 2, ...: " + _shares(summary["accepted_by_depth"])
    yield "time to first token", f"{summary['time_to_first_token_s']:.2f} s", "mean over requests"


def per_level(level: Mapping[str, Any]) -> str:
    """What a model was offered and made of it, of `stats.acceptance_per_level`."""
    rounds = max(level["rounds"], 1)
    offered, made = level["proposed"] / rounds, level["tokens"] / rounds
    return f"of {offered:.2f} tokens offered, {made:.2f} tokens a round, {level['rounds']} rounds"


def _streaming(summary: Mapping[str, Any]) -> Iterator[Row]:
    if summary["draft_levels"]:
        drafted = f"{summary['draft_levels'] / summary['rounds']:.1f} levels a round"
        yield "draft step", f"{summary['draft_step_s'] * 1e3:.1f} ms", drafted
    plain = summary.get("plain_rounds", 0)
    if 0 < plain < summary["rounds"]:
        why = (
            "plain decoding was faster"
            if summary["draft_levels"]
            else "nothing to propose, or plain decoding was faster"
        )
        yield "drafting paused", f"{plain} rounds", f"of {summary['rounds']}: {why}"
    if summary["bytes_streamed"]:
        reading = f"{summary['link_utilization']:.0%} of the time"
        per_round = f"{format_bytes(summary['bytes_per_round'])} a round, reading {reading}"
        yield "link", f"{summary['link_gbps']:.2f} GB/s", per_round
    if summary["bound_tokens_per_second"]:
        bound = f"{summary['bound_tokens_per_second']:.2f}"
        yield "bound", bound, "decode tokens/s if the link were all: tokens/round x link / bytes"


def _costs(summary: Mapping[str, Any]) -> Iterator[Row]:
    wall = summary["wall_seconds"] or 1.0
    shares = ", ".join(f"{name} {s / wall:.0%}" for name, s in summary["phase_seconds"].items() if s > 0)
    yield "wall clock", f"{summary['wall_seconds']:.1f} s", shares
    yield peak_row(summary["peak_device_bytes"], summary.get("device"))


def peak_row(size: int, device: str | None) -> Row:
    """What was held at most, named for what it counts."""
    if device is not None and device.startswith("cuda"):
        return "peak GPU memory", format_bytes(size), "held by torch's allocator"
    return "peak process memory", format_bytes(size), "RAM of the whole process, Python and torch included"


def _between(interval: Sequence[float] | None, form: str = ".2f") -> str:
    return "" if interval is None else f"; 95% in {interval[0]:{form}} to {interval[1]:{form}}"


def _score(part: Mapping[str, Any]) -> str:
    return "" if part["score"] is None else f"{part['score']:.1%}"


def _shares(shares: Sequence[float]) -> str:
    """Percentages by depth; what is nowhere accepted below is said once."""
    deepest = max((depth for depth, share in enumerate(shares, start=1) if share), default=0)
    parts = [f"{share:.0%}" for share in shares[:deepest]]
    return " ".join([*parts, "then none"] if deepest < len(shares) else parts)


def _ends(reasons: Mapping[str, int]) -> str:
    return "ended by " + ", ".join(
        ENDINGS[reason] if count == 1 else f"{ENDINGS[reason]} ({count})" for reason, count in reasons.items()
    )
