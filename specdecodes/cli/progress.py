"""A running benchmark as a person or a program follows it: a live line, plain lines, or JSON objects."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.live import Live
from rich.text import Text

from specdecodes.notify import Notify

if TYPE_CHECKING:
    from specdecodes.benchmark.progress import Progress


@contextmanager
def followed(console: Console, *, as_json: bool) -> Iterator[Callable[[Progress], None]]:
    """What to tell the progress of a benchmark to.

    On a terminal the last line is where the run is, and goes away at the end; a finished sample's line stays. Elsewhere
    there are only the lines that stay. Either goes to `console`, which is standard error; with `as_json`, samples that
    end are also written as JSON lines to standard output.
    """
    with live_line(console) as show:

        def follow(seen: Progress) -> None:
            if seen.event == "asking":
                show(str(seen))
                return
            show("")  # else the line that moves is drawn once more below the one that stays
            plain_lines(console)(str(seen))
            if as_json:
                write_line("sample", asdict(seen))

        yield follow


def plain_lines(console: Console) -> Notify:
    """What to tell lines to that `console` prints as they are: no colours, no markup, not cut."""
    return partial(console.print, highlight=False, markup=False, soft_wrap=True)


def write_line(event: str, content: Mapping[str, Any]) -> None:
    """One JSON object on a line of its own, flushed, so that a program may read along."""
    sys.stdout.write(json.dumps({"type": event, **content}, ensure_ascii=False) + "\n")
    sys.stdout.flush()


@contextmanager
def working(console: Console, text: str) -> Iterator[None]:
    """A step that may take seconds, told while it runs: a spinner on a terminal, elsewhere a line."""
    if console.is_terminal:
        with console.status(text):
            yield
        return
    plain_lines(console)(text)
    yield


@contextmanager
def live_line(console: Console) -> Iterator[Notify]:
    """A last line that each call replaces; nothing where `console` is no terminal.

    It draws only when called: a spinner's thread would take its share of what is being measured.
    """
    if not console.is_terminal:
        yield lambda text: None
        return
    with Live(console=console, auto_refresh=False, transient=True) as live:
        yield lambda text: live.update(Text(text, style="dim", no_wrap=True, overflow="ellipsis"), refresh=True)
