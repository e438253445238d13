"""Whether streamed layers come compressed: as asked, where it can be, and by itself only where it pays.

From host memory to an accelerator they are compressed while the model loads. From disk they need files of their own, a
second copy: `run-compress`, or the setting `on`, writes those, and nothing else does.
"""

from __future__ import annotations

import functools
import shutil
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from tqdm import tqdm

from specdecodes.errors import BudgetError, CheckpointError, ConfigError
from specdecodes.models.loading import Checkpoint
from specdecodes.native import missing_triton, usable_cores
from specdecodes.notify import Notify
from specdecodes.offload.compression.alone import codec
from specdecodes.offload.compression.compressed import (
    BLOCK_BYTES,
    HOST_BLOCK_BYTES,
    CompressedLayer,
    compressed_folder,
    layer_path,
    open_layer,
    sample_ratio,
    write_layer,
)
from specdecodes.offload.planning.alternatives import NEARLY, Alternative
from specdecodes.offload.planning.candidates import Compression
from specdecodes.offload.planning.plan import Placement
from specdecodes.offload.streaming.landings import COUNT
from specdecodes.quant.cache import checkpoint_identity
from specdecodes.units import format_bytes

Planner = Callable[[Compression | None], Placement]
_USUAL = {torch.bfloat16: 0.70, torch.float16: 0.88}  # the share of its bytes that a block of weights takes at most
_SAMPLE = 32 * 2**20  # weights that an accelerator expands to be timed


def choose(
    checkpoint: Checkpoint, device: torch.device, wanted: str, planned: Planner, *, room: int | None = None
) -> Placement:
    """The plan with or without compression; `wanted` is the setting memory.compress, `room` bytes of disk for copies.

    Raises ConfigError when it is `on` and cannot be, BudgetError when the copies would take more than `room`, and what
    `planned` raises.
    """
    plain = planned(None)
    if wanted == "off" or not plain.streamed:
        return plain
    reason = _impossible(checkpoint, device)
    if reason and wanted == "on":
        raise ConfigError(f"memory.compress is on, but {reason}; write off or auto.")
    if reason:
        return _noted(plain, reason)
    found = find_layers(checkpoint, range(checkpoint.spec.layers))
    offer = _offer(checkpoint, device, found, plain.streamed)
    if wanted == "on":
        made = planned(replace(offer, on_disk=True))
        _check_room(sum(offer.layer_bytes[layer] for layer in _unwritten(made, found)), room)
        return made
    try:
        compressed = planned(offer)
    except BudgetError as error:
        short = f"{format_bytes(error.shortfall_bytes)} over the budget"
        return replace(plain, rejected=(Alternative("streamed layers compressed", None, short), *plain.rejected))
    speeds = compressed.predicted.tokens_per_second, plain.predicted.tokens_per_second
    missing = _unwritten(compressed, found)
    if speeds[0] <= speeds[1] * (1 + NEARLY):
        other = Alternative("streamed layers compressed", speeds[0], f"not {NEARLY:.0%} faster; {_rates(offer)}")
    elif missing and offer.on_disk:
        size = format_bytes(sum(offer.layer_bytes[layer] for layer in missing))
        other = Alternative("streamed layers compressed", speeds[0], f"a second copy, {size}: run-compress writes it")
        plain = _noted(plain, f"{speeds[0]:.3g} tokens/s expected once `run-compress` has written {size} to disk")
    else:
        other = Alternative("streamed layers as they are", speeds[1], "slower")
        return replace(compressed, rejected=(other, *compressed.rejected))
    return replace(plain, rejected=(other, *plain.rejected))


def _unwritten(plan: Placement, found: Collection[int]) -> set[int]:
    """Layers that stream from disk and have no compressed copy there."""
    return set(plan.streamed) - set(plan.pinned) - set(found)


def _check_room(size: int, room: int | None) -> None:
    if room is not None and size > room:
        raise BudgetError(
            f"compressed copies would take {format_bytes(size)} of disk, and memory.disk leaves {format_bytes(room)}: "
            f"{size - room} bytes more. Give more --disk-space, or memory.compress=off.",
            size - room,
        )


def find_layers(checkpoint: Checkpoint, layers: Iterable[int]) -> dict[int, CompressedLayer]:
    """Those of `layers` that are kept compressed; damaged ones are not."""
    folder, found = folder_of(checkpoint), {}
    for layer in layers:
        try:
            kept = open_layer(layer_path(folder, layer), checkpoint.layer(layer))
        except CheckpointError:
            continue
        if kept is not None:
            found[layer] = kept
    return found


def ensure_layers(
    checkpoint: Checkpoint, layers: Sequence[int], progress: Notify, *, room: int | None = None
) -> dict[int, CompressedLayer]:
    """All of `layers` compressed on disk, the missing and damaged ones written now; tells the size first.

    Raises CheckpointError when there is no room for them, BudgetError when they take more than `room`.
    """
    folder, found = folder_of(checkpoint), find_layers(checkpoint, layers)
    missing = [layer for layer in layers if layer not in found]
    if not missing:
        return found
    whole = sum(span.nbytes for layer in missing for span in checkpoint.layer(layer).values())
    size = int(whole * _ratio(checkpoint, missing))
    _check_room(size, room)
    free = shutil.disk_usage(_existing(folder)).free
    damaged = sum(layer_path(folder, layer).exists() for layer in missing)
    again = f", {damaged} of them again because they were damaged" if damaged else ""
    text = f"{len(missing)} compressed layers{again}, {format_bytes(size)} for {format_bytes(whole)}, to {folder}"
    if size > free:
        raise CheckpointError(
            f"there is no room to write {text}: {format_bytes(free)} are free. Set SPECDECODES_CACHE to a folder on "
            "another disk, or memory.compress=off."
        )
    progress(f"writing {text}; {format_bytes(free)} are free there")
    started = time.perf_counter()
    for layer in tqdm(missing, desc="compressed layers", unit="layer", leave=False, disable=None):
        found[layer] = write_layer(layer_path(folder, layer), checkpoint.layer(layer))
    written = sum(found[layer].nbytes for layer in missing)
    progress(f"wrote {format_bytes(written)}, {written / whole:.1%}, in {time.perf_counter() - started:.1f} s")
    return found


def folder_of(checkpoint: Checkpoint) -> Path:
    """Where this checkpoint's compressed layers are kept."""
    return compressed_folder(_identity(checkpoint.files))


def _impossible(checkpoint: Checkpoint, device: torch.device) -> str:
    """Why layers cannot be compressed; empty when they can."""
    if checkpoint.rules:
        return "codes of few bits do not get smaller"
    if checkpoint.dtype not in codec.KINDS:
        return f"{str(checkpoint.dtype).removeprefix('torch.')} weights are not compressed, only 16-bit ones"
    if device.type == "cuda" and missing_triton():
        return f"it is expanded on a GPU by a Triton kernel, and {missing_triton()}"
    return codec.missing()


def _offer(
    checkpoint: Checkpoint, device: torch.device, found: dict[int, CompressedLayer], streamed: Sequence[int]
) -> Compression:
    """What compression would cost and save: by the files there are, and by a sample for the rest."""
    spans = [checkpoint.layer(layer) for layer in range(checkpoint.spec.layers)]
    whole = [sum(span.nbytes for span in layer.values()) for layer in spans]
    measured = set(streamed) <= found.keys()
    if measured:
        ratio = sum(found[layer].nbytes for layer in streamed) / sum(whole[layer] for layer in streamed)
    else:
        ratio = _ratio(checkpoint, streamed)
    sizes = tuple(found[i].nbytes if i in found else int(size * ratio) for i, size in enumerate(whole))
    block = min(BLOCK_BYTES if device.type == "cpu" else HOST_BLOCK_BYTES, max(whole))
    return Compression(
        layer_bytes=sizes,
        gbps=codec.core_gbps(usable_cores()) if device.type == "cpu" else _device_gbps(device),
        way=codec.way() if device.type == "cpu" else "Triton",
        on_disk=device.type == "cpu" or measured,
        buffer_bytes=0 if device.type == "cpu" else COUNT * (int(_USUAL[checkpoint.dtype] * block) + 16384),
        source="as written" if measured else "by a sample",
        apart=device.type == "cpu",
    )


def _rates(offer: Compression) -> str:
    return f"{offer.way} restores {offer.gbps:.3g} GB/s"


def _noted(plan: Placement, text: str) -> Placement:
    return replace(plan, notes=(*plan.notes, ("compression", text, "off")))


def _ratio(checkpoint: Checkpoint, layers: Sequence[int]) -> float:
    return sample_ratio([checkpoint.layer(layer) for layer in layers])


@functools.cache
def _identity(files: tuple[Path, ...]) -> str:
    return checkpoint_identity(files)


@functools.cache
def _device_gbps(device: torch.device) -> float:
    """GB/s of weights that the device restores, the best of three after one that compiles."""
    from specdecodes.offload.compression.alone import codec_kernel

    generator = torch.Generator().manual_seed(0)
    raw = torch.randn(_SAMPLE, generator=generator).bfloat16().view(torch.uint8)
    block, out = codec.compress(raw, torch.bfloat16).to(device), torch.empty_like(raw, device=device)
    best = float("inf")
    for turn in range(4):
        torch.cuda.synchronize(device)
        started = time.perf_counter()
        codec_kernel.expand(block, out, torch.bfloat16)
        torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - started) if turn else best
    return raw.nbytes / best / 1e9


def _existing(folder: Path) -> Path:
    """The nearest folder above that is there."""
    return next(path for path in (folder, *folder.parents) if path.exists())
