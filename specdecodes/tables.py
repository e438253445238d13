"""The look of every table: in a terminal a title, a rule below the heads, no frame that narrow windows would break; in
Markdown words to the left and numbers to the right."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from rich import box
from rich.markup import escape
from rich.table import Table

PADDING = (0, 1, 0, 0)


def ruled(title: str, *columns: str, numbers: Collection[str] = ()) -> Table:
    """A table without rows yet; the columns among `numbers` are whole and aligned to the right."""
    table = Table(
        title=f"\n{escape(title)}",  # brackets in a path are no style
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        padding=PADDING,
    )
    for column in columns:
        number = column in numbers
        table.add_column(column, justify="right" if number else "left", no_wrap=number, overflow="fold")
    return table


def markdown(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table for a page: a column of words, then columns of numbers, which are aligned to the right."""
    lines = [
        heads,
        ["---", *["---:"] * (len(heads) - 1)],
        *([cell.replace("|", "\\|") for cell in row] for row in rows),
    ]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
