"""Weights on a grid, in the one form that the solvers, the cache and every kernel share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from specdecodes.errors import QuantError
from specdecodes.quant.grids import STEPS, levels_of
from specdecodes.quant.parallel import CPU, piece

BLOCK_WEIGHTS = 1 << 19  # codes unpacked at a time: a kernel's wide input never exists for the whole weight
BLOCK_STEP = 64  # rows; kernels' own blocks divide it
PLANES = {2: (2,), 3: (2, 1), 4: (4,), 8: (8,)}  # bits of a code that lie together, the lowest first


@dataclass(frozen=True)
class Codes:
    """A weight on its grid: `weight ≈ (level(code) - zero) * scale`, with one scale and zero for each group of a row.

    packed: [out, in * bits / 8] uint8, see `pack`. scale: [out, in / group] float32. zero: the same, or None for zero.
    grid: which level a code stands for, by its name in `grids`; STEPS is the code itself. rotation: inputs that are
    multiplied with one Hadamard matrix before the product, see `hadamard`; 0 for none. order: [in] int64, the input
    that each column takes, where columns were sorted by importance; None for their own. step: [1] float32, what a
    level of the inputs is worth, where that is known beforehand. shift: [out, in / group] float32, added to the weight
    in place of a zero-point.
    """

    packed: Tensor
    scale: Tensor
    zero: Tensor | None = None
    bits: int = 4
    grid: str = STEPS
    rotation: int = 0
    order: Tensor | None = None
    step: Tensor | None = None
    shift: Tensor | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """(out, in) of the weight."""
        return self.packed.shape[0], self.packed.shape[1] * 8 // self.bits

    @property
    def group(self) -> int:
        """Weights that share one scale and zero."""
        return self.shape[1] // self.scale.shape[1]

    def row_blocks(self) -> list[slice]:
        """Slices of rows to unpack and pack one at a time."""
        return row_blocks(*self.shape)

    def codes(self, rows: slice | Tensor = slice(None)) -> Tensor:
        """All codes or those of some rows, [rows, in] uint8."""
        return unpack(self.packed[rows], self.bits)

    def dequantize(self, rows: slice = slice(None)) -> Tensor:
        """The weight on its grid, or some of its rows: [rows, in] float32; still rotated, and in the order of the
        columns, if the codes are."""
        scale = self.scale[rows]
        levels = levels_of(self.grid, self.codes(rows)).view(*scale.shape, -1)
        if self.zero is not None:
            levels = levels - self.zero[rows, :, None]
        values = levels * scale[..., None]
        return (values if self.shift is None else values + self.shift[rows, :, None]).flatten(1)

    def weight(self, rows: slice = slice(None)) -> Tensor:
        """`dequantize` with every column at its own input; not for rotated codes."""
        values = self.dequantize(rows)
        return values if self.order is None else torch.empty_like(values).index_copy_(1, self.order, values)

    def first(self, out: int) -> Codes:
        """The first `out` rows: without what pads them."""
        if out == len(self.packed):
            return self
        zero, shift = (None if part is None else part[:out] for part in (self.zero, self.shift))
        return replace(self, packed=self.packed[:out], scale=self.scale[:out], zero=zero, shift=shift)

    def widened(self) -> Codes:
        """The same weight with codes of four bits, for kernels that have no narrower ones."""
        return replace(self, packed=pack(self.codes(), 4), bits=4) if self.bits < 4 else self

    def scale_and_offset(self) -> tuple[Tensor, Tensor]:
        """Scale and offset, [out, groups] float32, as kernels of STEPS use them: `(code - 8) * scale + offset`.

        A group of equal weights has scale 1 and all its information in the zero-point. Its offset, about 8, would
        drown the weight in rounding; with scale 0 the offset is the weight itself.
        """
        if self.shift is not None:
            return self.scale, 8.0 * self.scale + self.shift
        if self.zero is None:
            return self.scale, torch.zeros_like(self.scale)
        offset = (8.0 - self.zero) * self.scale
        suspects = self.scale == 1.0
        rows = suspects.any(1).nonzero().flatten()
        if not rows.numel():
            return self.scale, offset
        flat = suspects.index_select(0, rows) & (self.codes(rows).view(len(rows), -1, self.group) == 0).all(2)
        flat = torch.zeros_like(suspects).index_copy_(0, rows, flat)
        return self.scale.masked_fill(flat, 0.0), torch.where(flat, -self.zero, offset)

    def tensors(self) -> dict[str, Tensor]:
        """All of it as tensors, to be kept in a file; `from_tensors` takes them."""
        kind = torch.tensor(list(f"{self.bits} {self.grid} {self.rotation}".encode()), dtype=torch.uint8)
        parts = {"packed": self.packed, "scale": self.scale, "kind": kind}
        perhaps = {"zero": self.zero, "order": self.order, "step": self.step, "shift": self.shift}
        return parts | {name: part for name, part in perhaps.items() if part is not None}

    @classmethod
    def from_tensors(cls, parts: Mapping[str, Tensor]) -> Codes:
        bits, grid, rotation = bytes(parts["kind"].tolist()).decode().split()
        tensors = (parts["packed"], parts["scale"], parts.get("zero"))
        inputs = (parts.get("order"), parts.get("step"))
        return cls(*tensors, int(bits), grid, int(rotation), *inputs, parts.get("shift"))


@dataclass(frozen=True)
class Solved:
    """A linear after quantization and before any kernel's packing; bias [out] stays as the checkpoint has it."""

    codes: Codes
    bias: Tensor | None = None


def can_join(parts: Sequence[Solved]) -> bool:
    """Whether linears of one input can be one: of one scheme, all with a bias or none."""
    alike = {(part.codes.shape[1], part.codes.group, part.codes.bits, part.codes.grid) for part in parts}
    first = parts[0].codes
    inputs = all(_same(one.codes.order, first.order) and _same(one.codes.step, first.step) for one in parts)
    return len(alike) == 1 and len({part.bias is None for part in parts}) == 1 and inputs


def _same(one: Tensor | None, other: Tensor | None) -> bool:
    return one is other or (one is not None and other is not None and torch.equal(one, other))


def join(parts: Sequence[Solved]) -> Solved:
    """Linears of one input as one: their outputs one after another. Raises QuantError where `can_join` says no."""
    if not can_join(parts):
        raise QuantError(
            "linears can be joined only if inputs, grids and groups are equal, and all or none have a bias."
        )
    codes = [part.codes for part in parts]
    zeros = [one.zero for one in codes if one.zero is not None]
    shifts = [one.shift for one in codes if one.shift is not None]
    biases = [part.bias for part in parts if part.bias is not None]
    whole = replace(
        codes[0],
        packed=torch.cat([one.packed for one in codes]),
        scale=torch.cat([one.scale for one in codes]),
        zero=torch.cat(zeros) if zeros else None,
        shift=torch.cat(shifts) if shifts else None,
    )
    return Solved(whole, torch.cat(biases) if biases else None)


def row_blocks(out: int, width: int, device: torch.device = CPU) -> list[slice]:
    """Slices over the rows of an [out, width] weight: BLOCK_WEIGHTS each, or less, in steps of BLOCK_STEP rows."""
    step = max(piece(BLOCK_WEIGHTS, device) // width // BLOCK_STEP, 1) * BLOCK_STEP
    return [slice(start, min(start + step, out)) for start in range(0, out, step)]


def pack(codes: Tensor, bits: int) -> Tensor:
    """[..., in] uint8 below 2**bits to [..., in * bits / 8] uint8.

    The row is cut into 8 / bits parts and byte j holds code j of every part, the first in its lowest bits. Three bits
    are a plane of two, then a plane of one.
    """
    planes = []
    for width in PLANES[bits]:
        parts = (codes & (2**width - 1)).chunk(8 // width, -1)
        plane = parts[0].clone()
        for place, part in enumerate(parts[1:], 1):
            plane |= part << (place * width)
        planes.append(plane)
        codes = codes >> width
    return torch.cat(planes, -1)


def unpack(packed: Tensor, bits: int) -> Tensor:
    """The codes of `pack`: [..., in * bits / 8] uint8 to [..., in] uint8; or of wider integers to such integers, whose
    bytes are the codes of neighbours."""
    everywhere = int.from_bytes(b"\1" * packed.itemsize, "little")
    sizes = [packed.shape[-1] * width // bits for width in PLANES[bits]]
    codes, shift = torch.zeros((), dtype=packed.dtype, device=packed.device), 0
    for plane, width in zip(packed.split(sizes, -1), PLANES[bits], strict=True):
        parts = [(plane >> place) & (2**width - 1) * everywhere for place in range(0, 8, width)]
        codes, shift = codes | (torch.cat(parts, -1) << shift), shift + width
    return codes


def check_weight(weight: Tensor, *, name: str = "weight") -> None:
    """Raise QuantError unless `weight` is a matrix of finite floating-point numbers."""
    if weight.ndim != 2 or not weight.is_floating_point() or weight.dtype.itemsize < 2:
        kind = str(weight.dtype).removeprefix("torch.")
        raise QuantError(
            f"{name}: a matrix of bf16, fp16 or fp32 weights is quantized, not {weight.ndim} axes of {kind}; take the "
            "model's unquantized checkpoint."
        )
    if not all(bool(end.isfinite()) for end in weight.aminmax()):
        raise QuantError(f"{name}: it holds NaN or infinite weights; the checkpoint is damaged, download it again.")


def check_group(width: int, group: int, *, name: str = "weight") -> None:
    """Raise QuantError unless `group` is even and divides `width`, naming the groups that would do."""
    if group >= 2 and group % 2 == 0 and width % group == 0 and width % 8 == 0:
        return
    leaf = name.rpartition(".")[2]
    fits = [str(size) for size in (256, 128, 64, 32, 16, 8) if width % size == 0]
    cure = f"groups that divide it: {', '.join(fits)}" if fits else f"leave it out with +{leaf}=none: hqq4+{leaf}=none"
    raise QuantError(f"{name}: {width} input features cannot be cut into groups of {group}; {cure}.")
