"""4-bit linears for CUDA, on a Triton kernel of our own: weights are read packed, and multiplied in x's dtype.

Codes are exact in every dtype and their products are summed in fp32; scales and offsets are fp16, which moves a weight
by about a hundredth of the 4-bit step. Run under triton's interpreter and compiled for several GPUs, but not yet run on
one.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from specdecodes.errors import QuantError
from specdecodes.quant.codes import Codes
from specdecodes.quant.kernels.cuda.tiling import block_size, choose_splits

MIN_BLOCK = 16  # what the tensor cores take

torch.library.define(
    "specdecodes::w4a16_matmul",
    "(Tensor x, Tensor sums, Tensor nibbles, Tensor scale, Tensor offset, int splits) -> Tensor",
)


@torch.library.impl("specdecodes::w4a16_matmul", ("CUDA", "CPU"))
def _matmul(x: Tensor, sums: Tensor, nibbles: Tensor, scale: Tensor, offset: Tensor, splits: int) -> Tensor:
    """On the CPU under TRITON_INTERPRET=1 alone, for tests."""
    from specdecodes.quant.kernels.cuda.w4a16_kernel import partial_products

    with torch.cuda.device_of(x):
        return partial_products(x, sums, nibbles, scale, offset, splits)


@torch.library.register_fake("specdecodes::w4a16_matmul")
def _matmul_shape(x: Tensor, sums: Tensor, nibbles: Tensor, scale: Tensor, offset: Tensor, splits: int) -> Tensor:
    return x.new_empty(splits, x.shape[0], nibbles.shape[0], dtype=torch.float32)


class W4A16Linear(nn.Module):
    """A linear on 4-bit weights for CUDA. Buffers are plain tensors, on `device`.

    nibbles: [out, in / 2] uint8, as `Codes` has them. scale, offset: [groups, out] fp16, or fp32 where `as_given` asks
    for the very weights of a checkpoint's codes. bias: [out] or None. order: as in Codes.
    """

    nibbles: Tensor
    scale: Tensor
    offset: Tensor
    order: Tensor | None
    bias: Tensor | None

    def __init__(
        self,
        codes: Codes,
        bias: Tensor | None = None,
        *,
        name: str = "weight",
        device: torch.device | str | None = None,
        as_given: bool = False,
    ) -> None:
        """Raises QuantError for groups that the kernel does not take."""
        super().__init__()
        self.out_features, self.in_features = codes.shape
        self.group, self.block = codes.group, block_size(self.in_features, codes.group)
        if self.block < MIN_BLOCK:
            raise QuantError(
                f"{name}: the w4a16 kernel needs a group and half of the {self.in_features} input features that are "
                f"multiples of {MIN_BLOCK}, not {self.group} and {self.in_features / 2:g}; choose another group, or "
                "keep this layer in full precision."
            )
        self.bits = 4
        self.tuned: dict[int, int] = {}  # splits by rows, where `tuning` has found them
        where = torch.device(device) if device is not None else codes.packed.device
        scale, offset = codes.scale_and_offset()
        held = torch.float32 if as_given else torch.float16
        self.register_buffer("nibbles", codes.packed.to(where).contiguous())
        self.register_buffer("scale", scale.T.to(where, held).contiguous())
        self.register_buffer("offset", offset.T.to(where, held).contiguous())
        self.register_buffer("order", None if codes.order is None else codes.order.to(where))
        self.register_buffer("bias", None if bias is None else bias.to(where))
        self.processors = torch.cuda.get_device_properties(where).multi_processor_count if where.type == "cuda" else 1

    def forward(self, x: Tensor) -> Tensor:
        """x [..., in] to [..., out] in x's dtype; summed, scaled and added in fp32."""
        rows = x.reshape(-1, self.in_features)
        rows = (rows if self.order is None else rows.index_select(1, self.order)).contiguous()
        count = rows.shape[0]
        # Out here both sums are torch's own, so that a compiled step shares them or folds them into its neighbours.
        sums = rows.view(count, -1, self.block).sum(-1, dtype=torch.float32)
        y = torch.ops.specdecodes.w4a16_matmul(
            rows, sums, self.nibbles, self.scale, self.offset, self.splits(count)
        ).sum(0)
        if self.bias is not None:
            y = y + self.bias
        return y.to(x.dtype).reshape(*x.shape[:-1], self.out_features)

    def splits(self, rows: int) -> int:
        """Into how many the loop over the inputs is cut, for so many rows: as tuned, else as arithmetic says."""
        found = self.tuned.get(rows)
        return found or choose_splits(rows, self.out_features, self.in_features, self.group, self.processors)

    @property
    def packed_weight(self) -> Tensor:
        return self.nibbles


def w4a16_bytes(out_features: int, in_features: int, group: int, *, as_given: bool = False) -> int:
    """Exact bytes of a W4A16Linear without bias."""
    return out_features * in_features // 2 + out_features * (in_features // group) * (8 if as_given else 4)
