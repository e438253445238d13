"""What compressing would cost and save here, in either way: by the files there are, and by a sample for the rest.

Beside a substitute what a sample leaves is weighed against codes that are solved for its own rows, by the draft's
scheme: no substitute is loaded for a plan.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from specdecodes.errors import CheckpointError
from specdecodes.methods.measured.outcome import made_of
from specdecodes.methods.needs import DraftNeeds
from specdecodes.methods.site import Site
from specdecodes.models.loading import Checkpoint
from specdecodes.native import missing_triton
from specdecodes.offload.compression.alone import codec
from specdecodes.offload.compression.beside import remainder
from specdecodes.offload.compression.beside.guess import HALVES, Guess
from specdecodes.offload.compression.beside.packing import Beside, Piece
from specdecodes.offload.compression.compressed import (
    HOST_BLOCK_BYTES,
    compressed_folder,
    layer_path,
    sample_ratio,
    written_bytes,
)
from specdecodes.offload.planning.candidates import counted, spread
from specdecodes.offload.planning.plan import Placement
from specdecodes.offload.planning.shape import BESIDE, Compression
from specdecodes.offload.storage.store import TensorSpan, load_tensor
from specdecodes.offload.streaming.landings import COUNT
from specdecodes.quant import Scheme, in_steps
from specdecodes.quant.cache import checkpoint_identity
from specdecodes.quant.solvers import solve
from specdecodes.units import format_bytes

MARGIN = 1.005
"""By which layers may take more than a sample of them."""

_MOST = {torch.bfloat16: 0.76, torch.float16: 0.88}  # the share of its bytes that a block of weights takes at most
_SAMPLE_BYTES = 64 * 1024  # of a weight
_TIMED = 32 * 2**20  # weights that an accelerator restores to be timed


@dataclass(frozen=True)
class Offer:
    """A way to compress a checkpoint's layers, those of them that have files already, and the bytes of all as they
    are."""

    compression: Compression
    written: frozenset[int]
    whole: tuple[int, ...]

    @property
    def rates(self) -> str:
        return f"{self.compression.way} restores {self.compression.gbps:.3g} GB/s"

    def told(self, plan: Placement, in_memory: Collection[int]) -> Placement:
        """A plan with this compression, and how it is known what that takes; a row says which of the layers `in_memory`
        are compressed while loading, for want of a file."""
        if plan.compression is None:
            return plan
        source = "as written" if self.written.issuperset(plan.streamed) else "by a sample"
        plan = replace(plan, compression=replace(plan.compression, source=source))
        missing = set(in_memory) - self.written
        if not missing:
            return plan
        size = sum(self.whole[layer] for layer in missing)
        seconds = size / (compressing_gbps(self.compression.kind) * torch.get_num_threads() * 1e9)
        times = f"about {seconds:.2g} s of computing" if seconds >= 1.0 else "under a second of computing"
        row = (f"compressed while loading: {counted(len(missing), 'layer')}", times, format_bytes(size))
        return replace(plan, notes=(*plan.notes, row))


def impossible(checkpoint: Checkpoint, device: torch.device) -> str:
    """Why layers cannot be compressed at all; empty when they can."""
    if checkpoint.rules:
        return "codes of few bits do not get smaller"
    if checkpoint.dtype not in codec.KINDS:
        return f"{str(checkpoint.dtype).removeprefix('torch.')} weights are not compressed, only 16-bit ones"
    if device.type == "cuda" and missing_triton():
        return f"it is expanded on a GPU by a Triton kernel, and {missing_triton()}"
    return codec.missing()


def unsuited(site: Site, draft: DraftNeeds) -> str:
    """Why nothing can be compressed beside substitutes, where layers can be at all; empty when something can."""
    if site.checkpoint.dtype != torch.bfloat16:
        return "only bfloat16 weights are compressed beside substitutes"
    if not draft.substitute_bytes:
        return "no substitute drafts for what streams"
    if not any(_guessed(site, draft, layer) for layer in range(site.checkpoint.spec.layers)):
        return f"{draft.rules} on {draft.kernel} holds no 4-bit codes in even steps, beside which weights say less"
    return remainder.missing()


def _guessed(site: Site, draft: DraftNeeds, layer: int) -> dict[str, Scheme]:
    """The weights of a layer, by name, of which its substitute says most, and the schemes of those."""
    found = {}
    for path, (_, width) in site.checkpoint.spec.linears().items():
        scheme = draft.rules.scheme_of(f"layers.{layer}.{path}")
        if scheme is not None and in_steps(scheme, draft.execution.choose(scheme).kernel, width):
            found[f"{path}.weight"] = scheme
    return found


def offer(site: Site, draft: DraftNeeds, kind: str) -> Offer:
    """What `kind`, ALONE or BESIDE, offers."""
    checkpoint, device = site.checkpoint, site.device
    folder = folder_of(checkpoint, made_of(draft.kernel, draft.rules) if kind == BESIDE else "")
    layers = range(checkpoint.spec.layers)
    written, whole = _written(folder, layers), [_nbytes(checkpoint.layer(layer)) for layer in layers]
    sizes = [written.get(layer) or int(MARGIN * _sampled(site, draft, layer, kind)) for layer in layers]
    gbps, way = _rate(device, kind)
    block = min(HOST_BLOCK_BYTES, max(whole))
    compression = Compression(
        layer_bytes=tuple(sizes),
        gbps=gbps,
        way=way,
        on_disk=True,
        buffer_bytes=0 if device.type == "cpu" else COUNT * (int(_MOST[checkpoint.dtype] * block) + 16384),
        kind=kind,
        keeps=True,
        apart=device.type == "cpu",
    )
    return Offer(compression, frozenset(written), tuple(whole))


def folder_of(checkpoint: Checkpoint, substitute: str = "") -> Path:
    """Where this checkpoint's compressed layers are: alone, or beside what `substitute` names."""
    return compressed_folder(_identity(checkpoint.files), substitute=substitute)


def _written(folder: Path, layers: Iterable[int]) -> dict[int, int]:
    """Bytes of those of `layers` that have undamaged files."""
    found = {}
    for layer in layers:
        try:
            size = written_bytes(layer_path(folder, layer))
        except CheckpointError:
            continue
        if size is not None:
            found[layer] = size
    return found


def _sampled(site: Site, draft: DraftNeeds, layer: int, kind: str) -> float:
    """Bytes that a layer will take."""
    checkpoint = site.checkpoint
    spans = checkpoint.layer(layer)
    guessed = _guessed(site, draft, layer) if kind == BESIDE else {}
    rest = _nbytes({name: span for name, span in spans.items() if name not in guessed})
    total = rest * alone_ratio(checkpoint)
    for name, scheme in guessed.items():
        alike = tuple(checkpoint.layer(other)[name] for other in _few(checkpoint.spec.layers))
        total += spans[name].nbytes * ratio_beside(alike, scheme)
    return total


def _few(layers: int) -> tuple[int, ...]:
    """Of so many, those that stand for all."""
    return spread(min(2, layers), layers)


def _nbytes(spans: Mapping[str, TensorSpan]) -> int:
    return sum(span.nbytes for span in spans.values())


def alone_ratio(checkpoint: Checkpoint) -> float:
    """The share of their bytes that this checkpoint's layers take, compressed alone."""
    return _ratio_alone(tuple(tuple(checkpoint.layer(layer).items()) for layer in range(checkpoint.spec.layers)))


@functools.cache
def _ratio_alone(layers: tuple[tuple[tuple[str, TensorSpan], ...], ...]) -> float:
    return sample_ratio([dict(layer) for layer in layers])


@functools.cache
def ratio_beside(spans: tuple[TensorSpan, ...], scheme: Scheme) -> float:
    """The share of their bytes that weights take beside substitutes of `scheme`, by a few rows of each."""
    whole = left = 0
    for span in spans:
        rows, width = span.shape
        count = max(1, min(rows, _SAMPLE_BYTES // (2 * width)))
        first = span.offset + (rows - count) // 2 * 2 * width
        weights = load_tensor(replace(span, shape=(count, width), offset=first, nbytes=2 * count * width))
        raw = weights.view(torch.uint8).flatten()
        whole, left = whole + raw.numel(), left + remainder.compress(raw, _solved(weights, scheme)).numel()
    return left / whole


def _solved(weights: Tensor, scheme: Scheme) -> Guess:
    """The guess that a substitute of these rows would be."""
    solved, (rows, width) = solve(weights, scheme), weights.shape
    scale, offset = (values.half().t().contiguous() for values in solved.scale_and_offset())
    codes = solved.codes()
    return Guess(codes[:, : width // 2] | codes[:, width // 2 :] << 4, scale, offset, HALVES, 0, rows, width)


def _rate(device: torch.device, kind: str) -> tuple[float, str]:
    """GB/s of weights restored, of a core or of the accelerator, and by what."""
    if device.type != "cpu":
        return _device_gbps(device, kind), "Triton"
    if kind == BESIDE:
        return remainder.core_gbps(torch.get_num_threads()), remainder.way()
    return codec.core_gbps(torch.get_num_threads()), codec.way()


@functools.cache
def compressing_gbps(kind: str) -> float:
    """GB/s of weights that a core compresses, on a few of them."""
    guess, raw = remainder.sample(256, 4096)
    started = time.perf_counter()
    if kind == BESIDE:
        remainder.compress(raw, guess)
    else:
        codec.compress(raw, torch.bfloat16)
    return raw.numel() / (time.perf_counter() - started) / 1e9


@functools.cache
def _device_gbps(device: torch.device, kind: str) -> float:
    """GB/s of weights that the device restores, the best of three after one that compiles. Not yet run on a GPU."""
    if kind == BESIDE:
        guess, raw = remainder.sample(_TIMED // 4096, 4096, layout=HALVES)
        pieces: tuple[Piece, ...] = (Piece(0, raw.numel(), _on(device, guess)),)
    else:
        raw = torch.randn(_TIMED, generator=torch.Generator().manual_seed(0)).bfloat16().view(torch.uint8)
        pieces = (Piece(0, raw.numel()),)
    packing = Beside(pieces)
    block = packing.compress(raw)
    cuts, landing, out = packing.cuts(block), block.to(device), torch.empty_like(raw, device=device)
    best = float("inf")
    for turn in range(4):
        torch.cuda.synchronize(device)
        started = time.perf_counter()
        packing.expand_on(landing, out, cuts)
        torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - started) if turn else best
    return raw.nbytes / best / 1e9


def _on(device: torch.device, guess: Guess) -> Guess:
    packed, scale, offset = (buffer.to(device) for buffer in (guess.packed, guess.scale, guess.offset))
    return replace(guess, packed=packed, scale=scale, offset=offset)


@functools.cache
def _identity(files: tuple[Path, ...]) -> str:
    return checkpoint_identity(files)
