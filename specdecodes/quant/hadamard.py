"""The Hadamard rotation: an orthogonal matrix of ±1 that spreads an outlier over all its inputs.

A row of `in` numbers is cut into pieces of the largest power of two that divides it (512 at most), and each piece is
multiplied with the Hadamard matrix of its size over the root of the size. The matrix is symmetric and its own inverse,
so rotating weights and inputs alike leaves their product as it was. On CUDA the fast-hadamard-transform library runs
it where it is installed (not yet run on a GPU); elsewhere two small matrix products do, since a Hadamard matrix is the
Kronecker product of two smaller ones.
"""

from __future__ import annotations

import functools
import importlib
from importlib.util import find_spec

import torch
from torch import Tensor

LARGEST = 512

torch.library.define("specdecodes::hadamard", "(Tensor x, int size) -> Tensor")


def rotation_of(width: int) -> int:
    """The size of the pieces in which a row of `width` is rotated."""
    return min(width & -width, LARGEST)


def rotate(x: Tensor, size: int) -> Tensor:
    """`x` [..., in], float32, rotated in pieces of `size`, a power of two; 0 and 1 leave it as it is."""
    return torch.ops.specdecodes.hadamard(x, size) if size > 1 else x


@torch.library.impl("specdecodes::hadamard", "default")
def _rotate(x: Tensor, size: int) -> Tensor:
    if x.is_cuda and _has_library():
        transform = importlib.import_module("fast_hadamard_transform").hadamard_transform
        return transform(x.reshape(-1, size).contiguous(), size**-0.5).view(x.shape)
    few = 1 << (size.bit_length() - 1) // 2
    left, right = (_matrix(side, x.device) for side in (few, size // few))
    return (left @ (x.reshape(-1, few, size // few) @ right)).view(x.shape)


@torch.library.register_fake("specdecodes::hadamard")
def _rotate_shape(x: Tensor, size: int) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


@functools.cache
def _has_library() -> bool:
    return find_spec("fast_hadamard_transform") is not None


@functools.cache
def _matrix(size: int, device: torch.device) -> Tensor:
    """[size, size] float32, orthogonal. Not to be written to."""
    matrix = torch.ones(1, 1)
    while matrix.shape[0] < size:
        matrix = torch.cat((torch.cat((matrix, matrix), 1), torch.cat((matrix, -matrix), 1)))
    return (matrix * size**-0.5).to(device)
