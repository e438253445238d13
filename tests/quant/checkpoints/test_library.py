"""Linears written by compressed-tensors itself, where it is installed, against its own decompression."""

from __future__ import annotations

import pytest
import torch

from specdecodes.quant import Execution, Rules, assemble
from specdecodes.quant.checkpoints import find_layout
from specdecodes.quant.codes import Solved

library = pytest.importorskip("compressed_tensors", reason="compressed-tensors is not installed")

OUT, IN = 48, 128
WEIGHTS = {
    "pack-quantized": {"num_bits": 4, "type": "int", "symmetric": False, "strategy": "group", "group_size": 32},
    "int-quantized": {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "channel"},
    "float-quantized": {"num_bits": 8, "type": "float", "symmetric": True, "strategy": "channel"},
}
TOKENS = {"num_bits": 8, "symmetric": True, "dynamic": True, "strategy": "token"}


def written(form, dtype):
    """The library's tensors of a random linear, the weight that it restores, and its config."""
    from compressed_tensors.compressors import BaseCompressor
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
    from compressed_tensors.quantization.utils import calculate_qparams

    args = QuantizationArgs(**WEIGHTS[form])
    inputs = None if form == "pack-quantized" else QuantizationArgs(type=args.type, **TOKENS)
    scheme = QuantizationScheme(targets=["Linear"], weights=args, input_activations=inputs)
    weight = torch.randn(OUT, IN, generator=torch.Generator().manual_seed(3)).mul(0.1).to(dtype)
    groups = weight.view(OUT, -1, WEIGHTS[form].get("group_size", IN))
    scale, zero = calculate_qparams(groups.amin(2), groups.amax(2), args)
    compressor = BaseCompressor.get_value_from_registry(form)
    state = {"weight": weight, "weight_scale": scale, "weight_zero_point": zero}
    tensors = compressor.compress(state, scheme)
    restored = compressor.decompress(dict(tensors), scheme)["weight"]
    group = scheme.model_dump(mode="json")
    config = {"quant_method": "compressed-tensors", "format": form, "config_groups": {"group_0": group}}
    return tensors, restored, config, scheme


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("form", WEIGHTS)
def test_what_the_library_wrote_is_read_as_it_reads_it(form, dtype):
    from compressed_tensors.quantization.lifecycle.forward import fake_quantize
    from compressed_tensors.quantization.utils import compute_dynamic_scales_and_zp

    tensors, restored, config, scheme = written(form, dtype)
    layout = find_layout({"quantization_config": config})
    parts = {name: tensors[name] for name in layout.parts(OUT, IN) if name in tensors}
    codes = layout.read(parts, "linear")
    assert torch.equal(codes.weight().to(restored.dtype), restored)
    if scheme.input_activations is None or dtype != torch.float32:
        return
    x = torch.randn(5, IN, generator=torch.Generator().manual_seed(4))
    step, zero = compute_dynamic_scales_and_zp(x[None], scheme.input_activations, torch.nn.Linear(IN, OUT))
    rounded = fake_quantize(x[None], step, zero, scheme.input_activations)[0]
    rules = Rules((("*", layout.scheme({name: part.dtype for name, part in parts.items()})),))
    linear = assemble({"linear": Solved(codes)}, rules, Execution("cpu", draft=False))["linear"]
    wanted = rounded.double() @ restored.double().t()
    assert (linear(x).double() - wanted).abs().max() < 2e-5 * wanted.abs().max()
