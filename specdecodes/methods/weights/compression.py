"""Whether streamed layers come compressed, and how: as asked, where it can be, and by itself only where it pays.

From host memory to an accelerator, and where they are kept in the memory that the model runs in, they are compressed
while it loads. From disk they need files of their own, a second copy: `run-compress`, or the settings `on` and `alone`,
write those, and nothing else does.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from specdecodes.errors import BudgetError, CheckpointError, ConfigError
from specdecodes.methods.needs import DraftNeeds
from specdecodes.methods.site import Site
from specdecodes.methods.weights.disk import disk_room
from specdecodes.methods.weights.offers import MARGIN, Offer, alone_ratio, folder_of, impossible, offer, unsuited
from specdecodes.models.loading import Checkpoint
from specdecodes.notify import Notify
from specdecodes.offload.compression.compressed import CompressedLayer, layer_path, open_layer, write_layer
from specdecodes.offload.compression.parts import Guesses
from specdecodes.offload.planning.alternatives import NEARLY, Alternative
from specdecodes.offload.planning.candidates import counted
from specdecodes.offload.planning.plan import Placement
from specdecodes.offload.planning.shape import ALONE, BESIDE, Compression
from specdecodes.units import format_bytes

Planner = Callable[[Compression | None], Placement]
_WORDS = {ALONE: "alone", BESIDE: "beside their substitutes"}
AS_THEY_ARE = "streamed layers as they are"


def choose(site: Site, draft: DraftNeeds, planned: Planner) -> Placement:
    """The plan with or without compression, as the setting memory.compress has it.

    Raises ConfigError when it is `on` or `alone` and cannot be, BudgetError when the copies would take more than
    memory.disk leaves, and what `planned` raises.
    """
    wanted, plain = site.pipeline.memory.compress, planned(None)
    if wanted == "off" or not plain.streamed:
        return plain
    asked = wanted in ("on", "alone")
    reason = impossible(site.checkpoint, site.device)
    if reason and asked:
        raise ConfigError(f"memory.compress is {wanted}, but {reason}; write off or auto.")
    if reason:
        return _noted(plain, reason)
    alone = "" if wanted != "alone" else "as asked"
    why_alone = alone or unsuited(site, draft)
    if asked:
        made = _written_for(site, offer(site, draft, ALONE if why_alone else BESIDE), planned)
        return made if alone or not why_alone else _noted(made, f"alone: {why_alone}", wanted)
    kinds = (ALONE,) if why_alone else (BESIDE, ALONE)
    tried = [one for kind in kinds for one in _tries(offer(site, draft, kind), planned)]
    return _best(plain, tried)


def _written_for(site: Site, offered: Offer, planned: Planner) -> Placement:
    """The plan for which copies are written wherever layers stream from disk."""
    made = planned(offered.compression)
    memory = site.pipeline.memory
    missing = set(to_write(made)) - offered.written
    size = sum(offered.compression.layer_bytes[layer] for layer in missing)
    _check_room(size, disk_room(site.checkpoint, memory.disk_bytes))
    return offered.told(made, made.pinned)


def to_write(plan: Placement) -> tuple[int, ...]:
    """The layers whose compressed copies belong on disk: those that would have to be read from there, those kept in
    memory included, which load sooner so."""
    return tuple(layer for layer in plan.streamed if layer not in set(plan.pinned))


class _Try(NamedTuple):
    """A way that was planned, in words; `plan` is None where it does not fit, which `why` says. `lacks`: bytes of
    copies that are not on disk."""

    what: str
    plan: Placement | None
    why: str
    lacks: int = 0

    @property
    def speed(self) -> float:
        return self.plan.predicted.tokens_per_second if self.plan else 0.0


def _tries(offered: Offer, planned: Planner) -> list[_Try]:
    """With copies of all that streams from disk, and without any; the latter is nothing of its own where all copies
    are there, or where nothing is compressed in it."""
    whole = _try(offered, planned, on_disk=True)
    if not whole.lacks and whole.plan is not None:
        return [whole]
    bare = _try(offered, planned, on_disk=False)
    return [whole, bare] if bare.plan is not None and bare.plan.compression is not None else [whole]


def _try(offered: Offer, planned: Planner, *, on_disk: bool) -> _Try:
    words = f"streamed layers compressed {_WORDS[offered.compression.kind]}"
    if not on_disk:
        words = words.replace("streamed layers", "layers in memory")
    try:
        plan = planned(replace(offered.compression, on_disk=on_disk))
    except BudgetError as error:
        return _Try(words, None, f"{format_bytes(error.shortfall_bytes)} over the budget")
    plan = offered.told(plan, (*plan.pinned, *plan.kept))
    needed = set(plan.streamed) - set(plan.pinned) - set(plan.kept) if on_disk else set()
    lacks = sum(offered.compression.layer_bytes[layer] for layer in needed - offered.written)
    return _Try(words, plan, offered.rates, lacks)


def _best(plain: Placement, tried: Sequence[_Try]) -> Placement:
    """The fastest that needs no new files, and what the others were."""
    speed = plain.predicted.tokens_per_second
    ready = [one for one in tried if one.plan is not None and not one.lacks and one.speed > speed * (1 + NEARLY)]
    best = max(ready, key=lambda one: one.speed, default=_Try(AS_THEY_ARE, plain, ""))
    assert best.plan is not None, "those that do not fit are left out"
    others = [one for one in tried if one is not best]
    told = [Alternative(one.what, one.speed or None, _why_not(one, best)) for one in others]
    if best.plan is not plain:
        told.append(Alternative(AS_THEY_ARE, speed, "slower"))
    chosen = replace(best.plan, rejected=(*told, *best.plan.rejected))
    first = tried[0]  # which is what the command writes
    if first.lacks and first.speed > best.speed * (1 + NEARLY):
        size = format_bytes(first.lacks)
        text = f"{first.speed:.3g} tokens/s expected once `run-compress` has written {size} to disk"
        return _noted(chosen, text, "in memory alone" if best.plan is not plain else "off")
    return chosen


def _why_not(one: _Try, best: _Try) -> str:
    if one.plan is None:
        return one.why
    if one.speed <= best.speed * (1 + NEARLY):
        slower = "slower" if one.speed < best.speed else f"not {NEARLY:.0%} faster"
        return f"{slower}; {one.why}"
    return f"a second copy, {format_bytes(one.lacks)}: run-compress writes it"


def _check_room(size: int, room: int | None) -> None:
    if room is not None and size > room:
        raise BudgetError(
            f"compressed copies would take {format_bytes(size)} of disk, and memory.disk leaves {format_bytes(room)}: "
            f"{size - room} bytes more. Give more --disk-space, or memory.compress=off.",
            size - room,
        )


def find_layers(
    checkpoint: Checkpoint,
    layers: Iterable[int],
    guesses: Mapping[int, Guesses] | None = None,
    *,
    substitute: str = "",
) -> dict[int, CompressedLayer]:
    """Those of `layers` that are kept compressed, alone or beside the substitutes that `guesses` are of, by layer, and
    that `substitute` names as in `folder_of`; damaged ones, and those made for others, are not."""
    folder, found = folder_of(checkpoint, substitute), {}
    for layer in layers:
        try:
            kept = open_layer(layer_path(folder, layer), checkpoint.layer(layer), (guesses or {}).get(layer))
        except CheckpointError:
            continue
        if kept is not None:
            found[layer] = kept
    return found


def ensure_layers(
    checkpoint: Checkpoint,
    layers: Sequence[int],
    progress: Notify,
    guesses: Mapping[int, Guesses] | None = None,
    *,
    substitute: str = "",
    expected: Sequence[int] = (),
    room: int | None = None,
) -> dict[int, CompressedLayer]:
    """All of `layers` compressed on disk, the missing and damaged ones written now; tells the size first, which is
    that of `expected` bytes, by layer, if a plan has any. `guesses` and `substitute` as in `find_layers`.

    Raises CheckpointError when there is no room for them, BudgetError when they take more than `room`.
    """
    folder, found = folder_of(checkpoint, substitute), find_layers(checkpoint, layers, guesses, substitute=substitute)
    missing = [layer for layer in layers if layer not in found]
    if not missing:
        return found
    spans = {layer: checkpoint.layer(layer) for layer in missing}
    whole = sum(span.nbytes for layer in missing for span in spans[layer].values())
    size = sum(expected[layer] for layer in missing) if expected else int(whole * alone_ratio(checkpoint) * MARGIN)
    _check_room(size, room)
    free = shutil.disk_usage(_existing(folder)).free
    damaged = sum(layer_path(folder, layer).exists() for layer in missing)
    again = f", {damaged} of them damaged until now" if damaged else ""
    these = counted(len(missing), "compressed layer")
    text = f"{these}{again}, {format_bytes(size)} for {format_bytes(whole)}, to {folder}"
    if size > free:
        raise CheckpointError(
            f"there is no room to write {text}: {format_bytes(free)} are free. Set SPECDECODES_CACHE to a folder on "
            "another disk, or memory.compress=off."
        )
    progress(f"writing {text}; {format_bytes(free)} are free there")
    started = time.perf_counter()
    for layer in tqdm(missing, desc="compressed layers", unit="layer", leave=False, disable=None):
        found[layer] = write_layer(layer_path(folder, layer), spans[layer], (guesses or {}).get(layer))
    written = sum(found[layer].nbytes for layer in missing)
    progress(f"wrote {format_bytes(written)}, {written / whole:.1%}, in {time.perf_counter() - started:.1f} s")
    return found


def _noted(plan: Placement, text: str, state: str = "off") -> Placement:
    return replace(plan, notes=(*plan.notes, ("compression", text, state)))


def _existing(folder: Path) -> Path:
    """The nearest folder above that is there."""
    return next(path for path in (folder, *folder.parents) if path.exists())
