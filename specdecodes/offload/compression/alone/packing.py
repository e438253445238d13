"""Blocks whose weights are coded by themselves."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from specdecodes.native import missing_triton
from specdecodes.offload.compression.alone import codec, codec_reference


@dataclass(frozen=True)
class Alone:
    """The `Packing` of blocks of codec.h, of weights of `dtype`."""

    dtype: torch.dtype

    def compress(self, raw: Tensor) -> Tensor:
        """The block of the bytes `raw` [n], in host memory, n even."""
        return codec.compress(raw, self.dtype)

    def sound(self, block: Tensor, nbytes: int) -> bool:
        """Whether `block`, in host memory, is an undamaged one of `nbytes` bytes."""
        return codec.sound(block, nbytes)

    def expand(self, block: Tensor, out: Tensor, threads: int = 1) -> bool:
        """Restores the bytes `out` [n] in host memory; False when the block is damaged, or not one of n bytes. So many
        threads share that; others run meanwhile."""
        return codec.expand(block, out, threads=threads)

    def cuts(self, block: Tensor) -> tuple[int, ...]:
        """None: a block is one piece."""
        return ()

    def expand_on(self, landing: Tensor, out: Tensor, cuts: tuple[int, ...]) -> None:
        """Enqueues what restores the bytes `out` [n] from a sound block at `landing`, both on one device: a Triton
        kernel on CUDA, else torch's own operations."""
        if landing.device.type == "cuda" and not missing_triton():
            from specdecodes.offload.compression.alone import codec_kernel

            codec_kernel.expand(landing, out, self.dtype)
        else:
            codec_reference.expand(landing, out, self.dtype)
