"""Whether kernels in Triton can be run where the tests are: on a GPU, or under triton's interpreter."""

from __future__ import annotations

import functools

import pytest
import torch


def need_triton() -> None:
    """Skips the module or the test that calls it where they cannot, and says why."""
    pytest.importorskip("triton", reason="needs triton, which comes with torch's CUDA build")
    if fault := interpreters_fault():
        pytest.skip(fault, allow_module_level=True)


@functools.cache
def interpreters_fault() -> str:
    """Empty where the interpreter runs a loop, or nothing is interpreted. Triton 3.6's does not with numpy 2.4."""
    if torch.cuda.is_available():
        return ""
    from triton.runtime.errors import InterpreterError

    from tests.looping_kernel import count

    total = torch.zeros(1, dtype=torch.int32)
    try:
        count[(1,)](total, 3)
    except InterpreterError as error:
        return f"triton's interpreter cannot run a loop here: {error}"
    return "" if total.item() == 2 else f"triton's interpreter runs a loop of 2 turns {total.item()} times"
