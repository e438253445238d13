"""`run-compare`: result folders side by side; which is faster, by how much, and whether they said the same."""

import csv
import sys
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from specdecodes.errors import ConfigError
from specdecodes.tables import markdown, ruled
from specdecodes.units import format_bytes

if TYPE_CHECKING:
    from specdecodes.benchmark.results.compare import Identity, Parting, SideBySide, Standing
    from specdecodes.benchmark.results.reading import Results

COLUMNS = ("method", "tok/s", "ratio", "95%", "tau", "a round", "link", "bound", "memory", "score")
LEGEND = (
    "ratio: of tok/s to the first run, with its paired 95% bootstrap interval over samples. tau: accepted draft tokens "
    "a round; a round: all tokens. link: share of the time with a read under way. bound: decode tok/s if the link were "
    "all. memory: peak{of}."
)
NEAR_TIES = (
    "Not all of these runs were exact: passes of other widths add the same numbers in another order, so near ties may "
    "fall the other way, and the text goes on from there. run-verify shows how near a tie was; --exact makes runs "
    "equal in every bit, for longer plain passes."
)
WITHOUT_GPU = " of the whole process, Python, torch and compiling included"
PARTINGS_SHOWN = 5
PAPER_COLUMNS = 160  # of a table that goes into a file


class Format(StrEnum):
    """How the comparison is written."""

    table = "table"
    markdown = "markdown"
    csv = "csv"


def run_compare(
    folders: Annotated[
        list[Path], typer.Argument(metavar="A B ...", help="Result folders; the first is what others are held against.")
    ],
    form: Annotated[Format, typer.Option("--format", help="How to write it, to standard output.")] = Format.table,
) -> None:
    """Compare runs of run-benchmark: speed with intervals, acceptance, memory, scores, and the tokens themselves.

    A folder is an --out-dir or one benchmark in it. Only samples that all runs answered are compared.
    """
    from specdecodes.benchmark.results.compare import compare, pooled
    from specdecodes.benchmark.results.reading import find_results

    if len(folders) < 2:
        raise ConfigError("one folder alone cannot be compared; give two or more result folders.")
    found = [find_results(folder) for folder in folders]
    names = [name for name in found[0] if all(name in results for results in found)]
    if not names:
        held = "; ".join(f"{folder}: {', '.join(results)}" for folder, results in zip(folders, found, strict=True))
        raise ConfigError(f"the folders have no benchmark in common ({held}).")
    alone = sorted(set().union(*found) - set(names))
    if alone:
        print(f"not in every folder, left out: {', '.join(alone)}", file=sys.stderr)
    groups = [[results[name] for results in found] for name in names]
    labels = _labels(groups[0], folders)
    pages = [compare(group, labels) for group in groups]
    if len(groups) > 1:
        pages.append(pooled(groups, labels))
    {Format.table: _print, Format.markdown: _markdown, Format.csv: _csv}[form](pages)


def _labels(runs: "Sequence[Results]", folders: Sequence[Path]) -> list[str]:
    """Methods, with the folder where one method ran twice."""
    methods = [run.method for run in runs]
    return [
        method if methods.count(method) == 1 else f"{method} ({folder})"
        for method, folder in zip(methods, folders, strict=True)
    ]


def cells(standing: "Standing") -> list[str]:
    """A row under COLUMNS."""
    shown = standing.figures
    interval = standing.ratio_interval
    bound, score = shown["bound_tokens_per_second"], shown["score"]
    return [
        standing.label,
        f"{shown['tokens_per_second']:.2f}",
        f"{_short(standing.ratio)}x",
        "" if interval is None else f"{_short(interval[0])}-{_short(interval[1])}",
        f"{shown['tau']:.2f}",
        f"{shown['tokens_per_round']:.2f}",
        f"{shown['link_utilization']:.0%}" if shown["bytes_streamed"] else "-",
        "-" if bound is None else _short(bound),
        format_bytes(shown["peak_device_bytes"]) if shown["peak_device_bytes"] else "-",
        "-" if score is None else f"{score:.1%}",
    ]


def _short(value: float) -> str:
    """Three digits, or all those before the point."""
    return f"{value:.{0 if value >= 100 else 1 if value >= 10 else 2}f}"


def sentences(page: "SideBySide") -> list[str]:
    """Whether the runs said the same, and where they did not; and who accepted how much, where there is a middle model
    between draft and target."""
    base = page.standings[0].label
    said = [line for identity in page.identities for line in _identity(identity, base)]
    if not page.exact and any(identity.partings for identity in page.identities):
        said.append(NEAR_TIES)
    levels = [standing for standing in page.standings if len(standing.figures["acceptance_per_level"]) > 1]
    return [*said, *(_by_level(standing) for standing in levels)]


def _by_level(standing: "Standing") -> str:
    parts = [
        f"the {level['level']} {level['tau']:.2f} of {level['proposed'] / max(level['rounds'], 1):.2f}"
        for level in standing.figures["acceptance_per_level"]
    ]
    return f"{standing.label} accepts a round, of the tokens offered: {', '.join(parts)}."


def legend(page: "SideBySide") -> str:
    """What the columns mean."""
    return LEGEND.format(of="" if all(device.startswith("cuda") for device in page.devices) else WITHOUT_GPU)


def _identity(identity: "Identity", base: str) -> list[str]:
    if not identity.partings:
        return [
            f"{identity.label} is token-identical to {base}: {identity.samples} samples, {identity.tokens:,} tokens."
        ]
    parted = len(identity.partings)
    lines = [f"{identity.label} differs from {base} in {parted} of {identity.samples} samples:"]
    lines += [f"  {_parting(parting, base, identity.label)}" for parting in identity.partings[:PARTINGS_SHOWN]]
    if parted > PARTINGS_SHOWN:
        lines.append(f"  and {parted - PARTINGS_SHOWN} more")
    return lines


def _parting(parting: "Parting", base: str, label: str) -> str:
    def named(token: int | None) -> str:
        return "the end" if token is None else f"token {token}"

    return (
        f"sample {parting.sample}, turn {parting.turn}, new token {parting.index}: "
        f"{base} {named(parting.base_token)} {parting.base_text!r}, {label} {named(parting.token)} {parting.text!r}"
    )


def _print(pages: "Sequence[SideBySide]") -> None:
    out = Console()
    if not out.is_terminal:
        out = Console(width=PAPER_COLUMNS)
    for page in pages:
        table = ruled(_title(page), *COLUMNS, numbers=COLUMNS[1:])
        for standing in page.standings:
            table.add_row(*cells(standing))
        out.print(table)
        for line in sentences(page):
            out.print(line, highlight=False, markup=False, soft_wrap=True)
        for warning in page.warnings:
            out.print(f"WARNING: {warning}", style="yellow", highlight=False, markup=False, soft_wrap=True)
        out.print()
    out.print(legend(pages[0]), style="dim", highlight=False, markup=False)


def _markdown(pages: "Sequence[SideBySide]") -> None:
    for page in pages:
        print(f"### {_title(page)}\n\n{markdown(COLUMNS, map(cells, page.standings))}", end="")
        notes = [*sentences(page), *(f"Warning: {warning}." for warning in page.warnings)]
        print("\n" + "\n".join(f"{'  - ' if note.startswith(' ') else '- '}{note.strip()}" for note in notes) + "\n")
    print(legend(pages[0]))


def _csv(pages: "Sequence[SideBySide]") -> None:
    """Plain numbers, a row a run and benchmark; warnings go to standard error."""
    rows = [_plain(page, place) for page in pages for place in range(len(page.standings))]
    writer = csv.DictWriter(sys.stdout, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    for page in pages:
        for warning in page.warnings:
            print(f"WARNING: {page.benchmark}: {warning}", file=sys.stderr)


def _plain(page: "SideBySide", place: int) -> dict[str, Any]:
    standing = page.standings[place]
    shown, interval = standing.figures, standing.ratio_interval or (None, None)
    speed = shown["tokens_per_second_interval"] or (None, None)
    parted = len(page.identities[place - 1].partings) if place else 0
    names = ("decode_tokens_per_second", "tau", "tokens_per_round", "link_utilization", "bound_tokens_per_second")
    return {
        "benchmark": page.benchmark,
        "method": standing.label,
        "samples": page.samples,
        "tokens_per_second": shown["tokens_per_second"],
        "tokens_per_second_low": speed[0],
        "tokens_per_second_high": speed[1],
        "ratio": standing.ratio,
        "ratio_low": interval[0],
        "ratio_high": interval[1],
        **{name: shown[name] for name in names},
        "peak_device_bytes": shown["peak_device_bytes"],
        "score": shown["score"],
        "identical_samples": page.samples - parted,
    }


def _title(page: "SideBySide") -> str:
    return f"{page.benchmark}: {page.samples} samples that all runs answered"
