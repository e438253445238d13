"""The budget of disk: what may be kept of copies that are made of a checkpoint, quantized or compressed."""

from __future__ import annotations

from specdecodes.models.loading import Checkpoint
from specdecodes.offload.compression.compressed import compressed_folder
from specdecodes.quant import SubstituteCache
from specdecodes.units import format_bytes


def copies(checkpoint: Checkpoint) -> dict[str, int]:
    """Bytes on disk of what was made of a checkpoint so far."""
    quantized = SubstituteCache(checkpoint.files)
    files = [file for file in compressed_folder(quantized.identity).rglob("*") if file.is_file()]
    return {"quantized layers": quantized.kept_bytes, "compressed layers": sum(file.stat().st_size for file in files)}


def disk_room(checkpoint: Checkpoint, budget: int | None) -> int | None:
    """Bytes that may still be written by a budget; None where there is none."""
    return None if budget is None else max(0, budget - sum(copies(checkpoint).values()))


def disk_rows(checkpoint: Checkpoint, budget: int | None) -> list[tuple[str, str, str]]:
    """For a plan's table: the copies that there are, and what a budget leaves; nothing without one."""
    if budget is None:
        return []
    rows = [(part, "copies on disk", format_bytes(size)) for part, size in copies(checkpoint).items() if size]
    left = format_bytes(disk_room(checkpoint, budget) or 0)
    return [*rows, (f"room for copies of a budget of {format_bytes(budget)}", "disk", left)]
