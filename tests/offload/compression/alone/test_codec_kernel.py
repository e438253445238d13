"""The Triton kernel that expands blocks: on the GPU, or under triton's interpreter."""

from __future__ import annotations

import pytest
import torch

from specdecodes import native
from specdecodes.offload.compression.alone import codec
from tests.offload.compression.alone.test_codec import DTYPES, samples

pytest.importorskip("triton", reason="needs triton, which comes with torch's CUDA build")
from specdecodes.offload.compression.alone import codec_kernel  # noqa: E402

pytestmark = pytest.mark.skipif(native.find_compiler() is None, reason="no C++ compiler")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", samples())
def test_every_bit_comes_back(name: str, dtype: str) -> None:
    raw = samples()[name]
    block = codec.compress(raw, DTYPES[dtype]).to(DEVICE)
    out = torch.full_like(raw, 0x55, device=DEVICE)
    codec_kernel.expand(block, out, DTYPES[dtype])
    assert out.cpu().equal(raw)
