"""What pages are made of: figures in two widths, one style sheet, a template, a file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from specdecodes.benchmark.report.drawing import Drawing
from specdecodes.benchmark.results.records import ResultsError

NARROW = 358
"""Pixels of a figure on a phone. A page holds each figure for wide and for narrow screens and shows one of them, so
that type keeps its size."""


@dataclass(frozen=True)
class Pictured:
    """A drawing for wide and for narrow screens, under a name of its own or none."""

    wide: Markup
    narrow: Markup
    name: str = ""


@dataclass(frozen=True)
class Figure:
    title: str
    note: str
    drawings: tuple[Pictured, ...]
    key: tuple[tuple[str, str], ...] = ()  # (class of the swatch, words)


def drawn(draw: Callable[[float], Drawing], wide: float, name: str = "") -> Pictured:
    """What `draw` makes of a width, in both widths."""
    return Pictured(Markup(draw(wide).markup("wide")), Markup(draw(NARROW).markup("narrow")), name)


def render(template: str, page: object) -> str:
    """`page` as HTML that needs nothing but itself."""
    loader = PackageLoader("specdecodes.benchmark.report")
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    style = Markup(loader.get_source(environment, "page.css")[0])
    return environment.get_template(template).render(page=page, style=style)


def write_page(template: str, page: object, out: Path) -> Path:
    """Write `page` to the file `out`, which is returned. Raises ResultsError."""
    text = render(template, page)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ResultsError(f"{out} cannot be written: {error.strerror}.") from error
    return out
