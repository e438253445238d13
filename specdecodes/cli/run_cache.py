"""`run-cache`: what earlier runs left on disk so that later ones start sooner, and how to be rid of it."""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from specdecodes.errors import ConfigError, suggest
from specdecodes.folders import cache_folder
from specdecodes.tables import ruled
from specdecodes.units import format_bytes

KINDS = {
    "substitutes": "quantized weights",
    "compressed": "layers compressed for streaming",
    "kernels": "C++ kernels built for this machine",
    "inductor": "compiled steps",
    "measured.json": "how long steps took and how often drafts were accepted",
}


@dataclass(frozen=True)
class Kept:
    """A part of the cache folder: its name there, its files, their bytes."""

    name: str
    files: int
    nbytes: int


def run_cache(
    action: Annotated[str, typer.Argument(metavar="[list|clear]", help="What to do.")] = "list",
    kinds: Annotated[
        list[str] | None, typer.Argument(metavar="[KIND...]", help="What to clear.", show_default="all of it")
    ] = None,
) -> None:
    """List what is kept in the cache folder, with sizes; `run-cache clear` removes it.

    Nothing there is lost for good: what a run misses it makes anew. Removing it under a running process is safe but for
    compiled steps.
    """
    if action not in ("list", "clear"):
        raise ConfigError(suggest("action", action, ("list", "clear")))
    for kind in kinds or ():
        if kind not in KINDS:
            raise ConfigError(suggest("kind", kind, KINDS))
    root, console = cache_folder(), Console()
    if action == "clear":
        console.print(cleared(root, kinds or list(KINDS)), highlight=False, markup=False, soft_wrap=True)
        return
    found = [kept(root / name) for name in KINDS]
    console.print(_kinds_table(root, found))
    if found[0].files:
        console.print(_entries_table())


def kept(path: Path) -> Kept:
    """What lies at `path`; files that vanish meanwhile do not count."""
    sizes = list(_sizes(path))
    return Kept(path.name, len(sizes), sum(sizes))


def cleared(root: Path, kinds: list[str]) -> str:
    """Remove `kinds` from `root`; what that gave back, in words. Raises ConfigError for what cannot be removed."""
    found = [kept(root / name) for name in kinds]
    for name in kinds:
        path = root / name
        try:
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
        except OSError as error:
            raise ConfigError(f"{path} cannot be removed: {error.strerror or error}.") from error
    freed = sum(part.nbytes for part in found)
    parts = [f"{part.name} {format_bytes(part.nbytes)}" for part in found if part.files]
    return f"{root}: {format_bytes(freed)} given back{': ' + ', '.join(parts) if parts else ', there was nothing'}"


def _sizes(path: Path) -> Iterator[int]:
    for file in path.rglob("*") if path.is_dir() else [path]:
        try:
            if file.is_file():
                yield file.stat().st_size
        except FileNotFoundError:
            continue


def _kinds_table(root: Path, found: list[Kept]) -> Table:
    title = f"{root}: {format_bytes(sum(part.nbytes for part in found))}"
    table = ruled(title, "kind", "what", "files", "size", numbers=("files", "size"))
    for part in found:
        table.add_row(part.name, KINDS[part.name], f"{part.files:,}", format_bytes(part.nbytes))
    return table


def _entries_table() -> Table:
    from specdecodes.quant.cache import entries

    heads = ("checkpoint", "scheme", "entry", "layers", "size")
    table = ruled("quantized weights, the largest first", *heads, numbers=heads[3:])
    for entry in entries():
        table.add_row(
            entry.checkpoint, entry.scheme, entry.folder.name[:8], str(entry.layers), format_bytes(entry.nbytes)
        )
    return table
