"""Full-precision linears on the CPU for a few rows, by a kernel of our own (cpu_linear.cpp).

Torch's takes twice as long for up to eight rows, and as long from some ROWS on. A row's bits are the same whatever rows
stand beside it, which torch's are not, so passes of one row and of a tree agree. Needs bfloat16 and a processor that
multiplies it (AVX512-BF16); anything else is torch's.
"""

from __future__ import annotations

import ctypes
import functools
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from specdecodes.native import address, load_if_built

SOURCE = Path(__file__).with_suffix(".cpp")
ROWS = 64

torch.library.define("specdecodes::few_rows_linear", "(Tensor x, Tensor weight, Tensor? bias) -> Tensor")


@functools.cache
def _library() -> ctypes.CDLL | None:
    library = load_if_built(SOURCE).library
    if library is None:
        return None
    library.cpu_linear.argtypes = [ctypes.c_void_p] * 4 + [ctypes.c_int64] * 3
    library.cpu_linear.restype = None
    library.cpu_head.argtypes = [*[ctypes.c_void_p] * 2, ctypes.c_double, *[ctypes.c_void_p] * 2, *[ctypes.c_int64] * 3]
    library.cpu_head.restype = None
    return library if library.cpu_linear_runs() else None


def takes(weight: Tensor) -> bool:
    """Whether the kernel runs here, on such weights."""
    here = weight.device.type == "cpu" and weight.dtype == torch.bfloat16 and weight.is_contiguous()
    return here and _library() is not None


def share() -> int:
    """Where its part lies that computes some of the outputs, for a kernel whose threads share them. `takes` is asked
    before."""
    library = _library()
    assert library is not None, "takes() comes first"
    return address(library.cpu_linear_share)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """[..., in] x [out, in] + [out] -> [..., out], in the inputs' dtype."""
    if few(x) and x.device.type == "cpu" and x.dtype == weight.dtype == torch.bfloat16:
        return torch.ops.specdecodes.few_rows_linear(x, weight, bias)
    return F.linear(x, weight, bias)


def few(x: Tensor) -> bool:
    """Whether `x` [..., in] is of few rows."""
    return x.numel() <= ROWS * x.shape[-1]


def normalized_linear(x: Tensor, norm: Tensor, eps: float, weight: Tensor) -> Tensor:
    """The root-mean-square norm of `x` [..., in], times `norm` [in], and its product with `weight` [out, in]:
    [..., out], in one call. `takes` is asked before, and `x` is of `few` rows in bfloat16."""
    library = _library()
    assert library is not None, "takes() comes first"
    x, (out, width), norm = x.contiguous(), weight.shape, norm.float()
    y = x.new_empty(*x.shape[:-1], out)
    rows = x.numel() // width
    library.cpu_head(x.data_ptr(), norm.data_ptr(), eps, weight.data_ptr(), y.data_ptr(), rows, width, out)
    return y


@torch.library.impl("specdecodes::few_rows_linear", "CPU")
def _few_rows(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    library = _library()
    if library is None or not weight.is_contiguous():
        return F.linear(x, weight, bias)
    x, (out, width) = x.contiguous(), weight.shape
    y = x.new_empty(*x.shape[:-1], out)
    held = None if bias is None else bias.contiguous()
    pointer = None if held is None else held.data_ptr()
    library.cpu_linear(x.data_ptr(), weight.data_ptr(), pointer, y.data_ptr(), x.numel() // width, width, out)
    return y


@torch.library.register_fake("specdecodes::few_rows_linear")
def _shape(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return x.new_empty(*x.shape[:-1], weight.shape[0])
