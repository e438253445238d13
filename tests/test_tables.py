"""Tables stay readable in narrow windows, numbers whole and to the right, no frame; on a page they stay tables."""

from __future__ import annotations

import io

from rich.console import Console

from specdecodes.tables import markdown, ruled


def test_numbers_are_whole_and_end_at_one_column_however_narrow_the_window():
    table = ruled("a title", "what", "size", numbers=("size",))
    table.add_row("the key-value cache of a long conversation", "7.98 MiB")
    table.add_row("ring", "103 MiB")
    screen = io.StringIO()
    Console(file=screen, width=30).print(table)
    lines = screen.getvalue().splitlines()
    assert [line.strip() for line in lines[:2]] == ["", "a title"]
    assert len({line.rstrip().rindex("MiB") for line in lines if "MiB" in line}) == 1
    assert max(map(len, lines)) <= 30 and not set("│┃|") & set(screen.getvalue())


def test_a_cell_cannot_break_a_table_on_a_page():
    text = markdown(("what", "size"), [("this | that", "7.98")])
    assert text == "| what | size |\n| --- | ---: |\n| this \\| that | 7.98 |\n"
