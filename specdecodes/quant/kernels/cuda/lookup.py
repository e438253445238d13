"""Linears of 2, 3, 4 and 8 bits for CUDA, on a Triton kernel of our own that looks levels up in a table.

Weights are read packed, as many bits as they have, and multiplied in x's dtype; products are summed in fp32, scales and
offsets are fp16. Serves every grid, Lloyd-Max levels among them, where FLUTE is not installed. Run under triton's
interpreter and compiled for several GPUs, but not yet run on one.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from specdecodes.errors import QuantError
from specdecodes.quant.activations import rounded
from specdecodes.quant.codes import Codes
from specdecodes.quant.grids import STEPS, table
from specdecodes.quant.hadamard import rotate

MIN_BLOCK = 16  # what the tensor cores take
PROGRAMS_PER_PROCESSOR = 4

torch.library.define(
    "specdecodes::lookup_matmul",
    "(Tensor x, Tensor packed, Tensor scale, Tensor? offset, Tensor? levels, int bits, int splits) -> Tensor",
)


@torch.library.impl("specdecodes::lookup_matmul", ("CUDA", "CPU"))
def _matmul(
    x: Tensor, packed: Tensor, scale: Tensor, offset: Tensor | None, levels: Tensor | None, bits: int, splits: int
) -> Tensor:
    """On the CPU under TRITON_INTERPRET=1 alone, for tests."""
    from specdecodes.quant.kernels.cuda.lookup_kernel import partial_lookups

    with torch.cuda.device_of(x):
        return partial_lookups(x, packed, scale, offset, levels, bits, splits)


@torch.library.register_fake("specdecodes::lookup_matmul")
def _matmul_shape(
    x: Tensor, packed: Tensor, scale: Tensor, offset: Tensor | None, levels: Tensor | None, bits: int, splits: int
) -> Tensor:
    return x.new_empty(splits, x.shape[0], packed.shape[0], dtype=torch.float32)


class LookupLinear(nn.Module):
    """A linear on codes of any grid for CUDA. Buffers are plain tensors, on `device`.

    packed: [out, in * bits / 8] uint8, as `Codes` has them. scale, offset: [groups, out] fp16; no offset for grids
    around zero. levels: [2**bits] float32, or None where a code is its level. bias: [out] or None.
    """

    packed: Tensor
    scale: Tensor
    offset: Tensor | None
    levels: Tensor | None
    bias: Tensor | None

    def __init__(
        self,
        codes: Codes,
        bias: Tensor | None = None,
        *,
        name: str = "weight",
        device: torch.device | str | None = None,
    ) -> None:
        """Raises QuantError for groups that the kernel does not take."""
        super().__init__()
        self.out_features, self.in_features = codes.shape
        self.bits, self.rotation, self.group = codes.bits, codes.rotation, codes.group
        self.activations = ""  # what inputs are rounded to, see `activations.rounded`: nothing, but in a twin
        self.tuned: dict[int, int] = {}  # splits by rows, where `tuning` has found them
        if codes.group % MIN_BLOCK or self.in_features // 8 % MIN_BLOCK:
            raise QuantError(
                f"{name}: the lookup kernel needs a group and an eighth of the {self.in_features} input features that "
                f"are multiples of {MIN_BLOCK}, not {codes.group} and {self.in_features / 8:g}; choose another group, "
                "or write @reference behind the scheme."
            )
        where = torch.device(device) if device is not None else codes.packed.device
        offset = None if codes.zero is None else (-codes.zero * codes.scale).T.to(where, torch.float16).contiguous()
        self.register_buffer("packed", codes.packed.to(where).contiguous())
        self.register_buffer("scale", codes.scale.T.to(where, torch.float16).contiguous())
        self.register_buffer("offset", offset)
        self.register_buffer("levels", None if codes.grid == STEPS else table(codes.grid).to(where))
        self.register_buffer("bias", None if bias is None else bias.to(where))
        self.processors = torch.cuda.get_device_properties(where).multi_processor_count if where.type == "cuda" else 1

    def forward(self, x: Tensor) -> Tensor:
        """x [..., in] to [..., out] in x's dtype; summed, scaled and added in fp32."""
        rows = x.reshape(-1, self.in_features)
        if self.rotation or self.activations:
            rows = rounded(rotate(rows.float(), self.rotation), self.activations).to(x.dtype)
        splits = self.splits(rows.shape[0])
        y = torch.ops.specdecodes.lookup_matmul(
            rows.contiguous(), self.packed, self.scale, self.offset, self.levels, self.bits, splits
        ).sum(0)
        if self.bias is not None:
            y = y + self.bias
        return y.to(x.dtype).reshape(*x.shape[:-1], self.out_features)

    def splits(self, rows: int) -> int:
        """Into how many the loop over the inputs is cut, for so many rows: as tuned, else as arithmetic says."""
        tiles = -(-rows // 16) * -(-self.out_features // 64)
        wanted = -(-PROGRAMS_PER_PROCESSOR * self.processors // tiles)
        return self.tuned.get(rows) or max(1, min(wanted, self.in_features // 512))

    @property
    def packed_weight(self) -> Tensor:
        return self.packed


def lookup_bytes(out_features: int, in_features: int, group: int, *, bits: int, grid: str) -> int:
    """Exact bytes of a LookupLinear without bias."""
    tables = 0 if grid == STEPS else table(grid).nbytes
    scales = out_features * (in_features // group) * (4 if grid == STEPS else 2)
    return out_features * in_features * bits // 8 + scales + tables
