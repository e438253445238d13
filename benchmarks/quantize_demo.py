"""Write the demo model in GPTQ's format, 4 bits in groups of 32, by plain rounding: a quantized target for trials.

    python benchmarks/quantize_demo.py [SOURCE] [OUT]

SOURCE may be a widened demo, of one file; run-convert-checkpoint makes the result stream.

A real quantizer loses less; what is shown on the result is speed and exactness, not what 4 bits cost.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a clone that is not installed

from benchmarks.derived import write_derived

BITS, GROUP = 4, 32
ASSETS = Path(__file__).resolve().parents[1] / "assets"
CONFIG = {
    "quant_method": "gptq",
    "bits": BITS,
    "group_size": GROUP,
    "sym": True,
    "desc_act": False,
    "checkpoint_format": "gptq",
}


def quantized(weight: Tensor) -> dict[str, Tensor]:
    """The tensors of a linear [out, in]: symmetric, in steps of a seventh of the group's largest weight."""
    out, width = weight.shape
    groups = weight.float().view(out, -1, GROUP)
    scales = (groups.abs().amax(2) / (2 ** (BITS - 1) - 1)).clamp(min=2.0**-14).half()
    codes = torch.round(groups / scales.float()[..., None]).clamp(-8, 7).int().add(8).view(out, width)
    zeros = torch.full((width // GROUP, out), 2 ** (BITS - 1) - 1, dtype=torch.int32)
    return {
        "qweight": words(codes).t().contiguous(),
        "qzeros": words(zeros),
        "scales": scales.t().contiguous(),
        "g_idx": (torch.arange(width) // GROUP).int(),
    }


def words(codes: Tensor) -> Tensor:
    """[n, m] codes to [n, m / 8] int32, the first in the lowest bits."""
    parts = codes.long().view(len(codes), -1, 32 // BITS) << torch.arange(0, 32, BITS)
    whole = parts.sum(2)
    return torch.where(whole >= 2**31, whole - 2**32, whole).int()


def main(source: Path, out: Path) -> None:
    tensors: dict[str, Tensor] = {}
    for name, tensor in load_file(source / "model.safetensors").items():
        if name.endswith("_proj.weight"):
            stem = name.removesuffix("weight")
            tensors |= {stem + part: value for part, value in quantized(tensor).items()}
        else:
            tensors[name] = tensor
    write_derived(source, out, tensors, {"quantization_config": CONFIG})


if __name__ == "__main__":
    given = [Path(argument) for argument in sys.argv[1:]]
    defaults = [ASSETS / "demo", ASSETS / "demo-w4a16"]
    main(*given, *defaults[len(given) :])
