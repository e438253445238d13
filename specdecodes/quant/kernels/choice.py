"""Which kernel runs a scheme: the fastest that is there, or the reference, and never another precision for a target.

A draft decides nothing, so on a CPU its inputs may be rounded to 8 bits, group by group, where that is how the fast
kernel works; the plan names the kernel. A target's inputs are rounded as its scheme says and no further.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from specdecodes.errors import QuantError, suggest
from specdecodes.native import missing_triton
from specdecodes.quant.activations import WHOLE_ROWS
from specdecodes.quant.codes import Solved
from specdecodes.quant.grids import E4M3, STEPS
from specdecodes.quant.kernels.cpu.halves import HalvesLinear, halves_bytes
from specdecodes.quant.kernels.cpu.int4 import GROUPS, Int4Linear, int4_bytes
from specdecodes.quant.kernels.cpu.int8 import Int8Linear, int8_bytes
from specdecodes.quant.kernels.cpu.lanes import lanes_bytes
from specdecodes.quant.kernels.cpu.w4a8 import W4A8Linear, stored_bits, support
from specdecodes.quant.kernels.cpu.w4a32 import W4A32Linear
from specdecodes.quant.kernels.cuda.flute import FluteLinear
from specdecodes.quant.kernels.cuda.gemlite import GemliteLinear
from specdecodes.quant.kernels.cuda.lookup import LookupLinear, lookup_bytes
from specdecodes.quant.kernels.cuda.w4a16 import W4A16Linear, w4a16_bytes
from specdecodes.quant.kernels.fp8 import Fp8Linear, fp8_bytes
from specdecodes.quant.kernels.reference import ReferenceLinear, reference_bytes
from specdecodes.quant.solvers import grid_of
from specdecodes.quant.spec import Scheme

INT4PACK_ROWS = 3  # up to here int4pack is as fast as int8, or close to it at half the bytes
KERNELS = ("w4a8", "w4a32", "int4pack", "int8", "fp8", "w4a16", "lookup", "gemlite", "flute", "reference")
_UNORDERED = ("gemlite", "flute")  # programs add to one sum as they end, not in order


@dataclass(frozen=True)
class KernelChoice:
    """What quantized linears run on, and one line for the plan that says why."""

    kernel: str
    note: str


@dataclass(frozen=True)
class Execution:
    """Where quantized linears run: the device, the `rows` of a step, and whether they draft. `compact` asks for the
    smallest kernel where there is a choice."""

    device: str = "cpu"
    rows: int = 1
    draft: bool = True
    compact: bool = False

    def choose(self, scheme: Scheme) -> KernelChoice:
        """The kernel for `scheme` here. On the CPU the first call on a machine builds kernels, in seconds.

        Raises QuantError for a kernel that was asked for by name and does not exist or does not run the scheme.
        """
        if scheme.kernel:
            return _asked(scheme, self.draft)
        kind = torch.device(self.device).type
        if scheme.grid:
            return _for_given(scheme, kind) or _REFERENCE_ALONE
        choice = self._on_cpu(scheme) if kind == "cpu" else _on_cuda(scheme) if kind == "cuda" else None
        why = f" ({missing_triton()})" if kind == "cuda" and missing_triton() else ""
        return choice or KernelChoice("reference", f"no fused kernel for {scheme.name} here{why}: correct and slow")

    def _on_cpu(self, scheme: Scheme) -> KernelChoice | None:
        if scheme.name == "w8a8":
            return KernelChoice("int8", "oneDNN's integer product")
        if scheme.name == "fp8":
            return KernelChoice("fp8", "torch's scaled product of e4m3 numbers: right, and slow on a processor")
        built = support()
        if scheme.name in ("int8", "hqq8"):
            if self.draft and not scheme.group:
                return KernelChoice("int8", "oneDNN's integer product")
            name = "w4a8 twice" if self.draft else "w4a32 twice"
            return KernelChoice(name, f"8 bits in two halves, {built.note}") if built.variant else None
        if scheme.bits > 4:
            return None
        if built.variant and (self.draft or scheme.activations):
            return KernelChoice("w4a8", built.note)
        if built.variant:
            return KernelChoice("w4a32", f"activations as they are, {built.note}")
        if grid_of(scheme) != STEPS or not self.draft or scheme.activations:
            return None
        if (self.rows <= INT4PACK_ROWS or self.compact) and scheme.group in GROUPS:
            return KernelChoice("int4pack", f"{built.note}; torch's packed int4, for few rows")
        return KernelChoice("int8", f"{built.note}; oneDNN's int8, for levels of more than {INT4PACK_ROWS} rows")


_REFERENCE_ALONE = KernelChoice("reference", "no fused kernel for this checkpoint's format here: correct and slow")


def _for_given(scheme: Scheme, device: str) -> KernelChoice | None:
    """A kernel that runs a checkpoint's own codes without rounding them again."""
    if device == "cpu" and scheme.activations in WHOLE_ROWS and scheme.bits == 8:
        return KernelChoice("int8", "oneDNN's integer product")
    if scheme.activations or scheme.grid == E4M3:
        return None
    if device == "cpu" and scheme.bits == 8 and support().variant and not scheme.wide:
        return KernelChoice("w4a32 twice", f"the checkpoint's own codes in two halves, {support().note}")
    if scheme.bits > 4:
        return None
    if device == "cpu" and support().variant and not scheme.wide:
        return KernelChoice("w4a32", f"the checkpoint's own codes, activations as they are, {support().note}")
    if device == "cuda" and not missing_triton():
        return KernelChoice("w4a16", "the checkpoint's own codes on Triton, activations as they are")
    return None


def _on_cuda(scheme: Scheme) -> KernelChoice | None:
    if scheme.name == "fp8" and torch.cuda.is_available() and torch.cuda.get_device_capability() >= (8, 9):
        return KernelChoice("fp8", "torch's scaled product of e4m3 numbers")
    if missing_triton() or scheme.activations:
        return None
    if grid_of(scheme) == STEPS and scheme.bits == 4:
        return KernelChoice("w4a16", "4-bit weights on Triton, activations as they are")
    return KernelChoice("lookup", "levels from a table on Triton, activations as they are")


def _asked(scheme: Scheme, draft: bool) -> KernelChoice:
    if scheme.kernel not in KERNELS:
        raise QuantError(suggest("kernel", scheme.kernel, KERNELS))
    if scheme.grid and scheme.kernel != "reference":
        raise QuantError(f"a quantized checkpoint runs on the kernel that suits it or on @reference, not on {scheme}.")
    if not _runs(scheme.kernel, scheme):
        raise QuantError(f"the {scheme.kernel} kernel does not run {scheme.name}; write {scheme.name} alone.")
    if scheme.kernel in _UNORDERED and not draft:
        raise QuantError(
            f"{scheme.kernel} sums in another order every time, so a target cannot run on it; leave @{scheme.kernel} "
            "away."
        )
    return KernelChoice(scheme.kernel, "as asked")


def _runs(kernel: str, scheme: Scheme) -> bool:
    match kernel:
        case "reference":
            return True
        case "fp8":
            return scheme.name == "fp8"
        case "flute":
            return scheme.name in ("higgs2", "higgs3", "higgs4")
        case "lookup":
            return not scheme.activations
        case "w4a8":
            return scheme.bits <= 4
        case "w4a32":
            return scheme.bits <= 4 and not scheme.activations
        case _:
            return grid_of(scheme) == STEPS and scheme.bits <= 4 and not scheme.activations


def in_steps(scheme: Scheme, kernel: str, width: int) -> bool:
    """Whether a linear of `scheme` with `width` inputs holds 4-bit codes of its own weights in even steps on `kernel`,
    so that they can be told from its buffers."""
    if scheme.grid or scheme.rotated or grid_of(scheme) != STEPS or scheme.bits > 4:
        return False
    return kernel in ("w4a32", "w4a16") or (kernel == "w4a8" and stored_bits(scheme.bits, scheme.group_of(width)) == 4)


def kernel_bytes(out_features: int, in_features: int, scheme: Scheme, kernel: str) -> int:
    """Bytes that a linear of `scheme` holds on `kernel`, its bias apart."""
    group = scheme.group_of(in_features)
    match kernel:
        case "w4a8":
            bits = stored_bits(scheme.bits, group)
            return lanes_bytes(out_features, in_features, group, grid_of(scheme), bits=bits)
        case "w4a32":
            return lanes_bytes(out_features, in_features, group, grid_of(scheme))
        case "w4a8 twice" | "w4a32 twice":
            return halves_bytes(out_features, in_features, group)
        case "int4pack":
            return int4_bytes(out_features, in_features, group)
        case "int8":
            return int8_bytes(out_features, in_features)
        case "w4a16" | "gemlite":
            return w4a16_bytes(out_features, in_features, group, as_given=bool(scheme.grid))
        case "fp8":
            return fp8_bytes(out_features, in_features)
        case "lookup" | "flute":
            return lookup_bytes(out_features, in_features, group, bits=scheme.bits, grid=grid_of(scheme))
        case _:
            return reference_bytes(out_features, in_features, group, bits=scheme.bits, grid=grid_of(scheme))


def build_linear(solved: Solved, scheme: Scheme, kernel: str, name: str, device: str) -> nn.Module:
    """The linear of `solved` on `kernel`; `name` is for errors."""
    codes, bias, given = solved.codes, solved.bias, bool(scheme.grid)
    whole_rows = scheme.activations if scheme.activations in WHOLE_ROWS else "int8-row"
    builders: dict[str, Callable[[], nn.Module]] = {
        "w4a8": lambda: W4A8Linear(codes, bias, activations=scheme.activations or "int8", name=name),
        "w4a32": lambda: W4A32Linear(codes, bias, name=name, as_given=given),
        "w4a8 twice": lambda: HalvesLinear(codes, bias, whole=False, name=name),
        "w4a32 twice": lambda: HalvesLinear(codes, bias, whole=True, name=name, as_given=given),
        "int4pack": lambda: Int4Linear(codes.widened(), bias, name=name),
        "int8": lambda: Int8Linear(codes, bias, activations=whole_rows, name=name),
        "w4a16": lambda: W4A16Linear(codes.widened(), bias, name=name, device=device, as_given=given),
        "fp8": lambda: Fp8Linear(codes, bias, device=device),
        "flute": lambda: FluteLinear(codes, bias, device=device),
        "lookup": lambda: LookupLinear(codes, bias, name=name, device=device),
        "gemlite": lambda: GemliteLinear(codes.widened(), bias, device=device),
        "reference": lambda: ReferenceLinear(codes, bias, activations=scheme.activations, as_given=given).to(device),
    }
    return builders[kernel]()
