"""Loading in few bits holds one layer of the full-precision model at a time, never the whole."""

from __future__ import annotations

import ctypes
import gc
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from specdecodes.config import Memory, Pipeline, Target
from specdecodes.folders import cache_folder
from specdecodes.methods import build, plan_for

LAYERS, WIDE = 24, {"hidden_size": 384, "intermediate_size": 1024, "num_attention_heads": 4, "num_key_value_heads": 4}
LAYER_BYTES = 2 * (4 * 384 * 384 + 3 * 384 * 1024)  # in bf16: 3.5 MB


def memory(kind: str) -> int:
    """This process's memory in bytes: `VmRSS` is now, `VmHWM` the most since the mark was reset."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(kind))
    return int(line.split()[1]) * 1024


@pytest.mark.skipif(sys.platform != "linux", reason="the mark of a process's memory is Linux's")
def test_the_full_precision_model_is_never_in_memory(
    tiny_checkpoint: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "kernels").symlink_to(cache_folder() / "kernels")  # building them takes longer than the test
    monkeypatch.setenv("SPECDECODES_CACHE", str(tmp_path))
    folder = tiny_checkpoint("llama", "bf16", num_hidden_layers=LAYERS, **WIDE)
    target = Target(str(folder), device="cpu", quant="int4")
    pipeline = Pipeline("vanilla", target, memory=Memory("4GiB"), max_length=64, compile=False)
    placement = plan_for(pipeline)
    for _ in range(2):  # solved, then from the cache
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)  # else what was freed before is used again, and nothing seems to rise
        before = memory("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")
        with build(pipeline, placement, progress=lambda text: None):
            risen = memory("VmHWM") - before
        packed = LAYERS * LAYER_BYTES / 4
        assert risen > packed * 0.9, "all of it was loaded"
        assert risen < LAYERS * LAYER_BYTES * 0.7, "packed layers, and what a few full ones take"
