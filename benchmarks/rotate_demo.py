"""Write a checkpoint rotated, as QuaRot and QQQ do before they quantize: a rotated target for trials.

    python benchmarks/rotate_demo.py [SOURCE] [OUT]

It says what SOURCE says, in numbers that are easier to round. Norm weights are folded into the linears behind them, the
residual stream is turned by a random Hadamard matrix, and inside each head the values by a fixed one; a tied head is
untied. OUT holds the matrix too (`rotation.safetensors`), which published checkpoints do not.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a clone that is not installed

from benchmarks.derived import write_derived
from specdecodes.models.families import ModelSpec
from specdecodes.models.loading import open_checkpoint

ASSETS = Path(__file__).resolve().parents[1] / "assets"
BEHIND = {
    "input_layernorm": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "post_attention_layernorm": ("mlp.gate_proj", "mlp.up_proj"),
}
WRITERS = ("self_attn.o_proj", "mlp.down_proj")
MATRIX = "rotation.safetensors"


def hadamard(size: int) -> Tensor:
    """[size, size] float64, orthogonal: a Hadamard matrix where `size` is a power of two, else its Kronecker product
    with a random orthogonal matrix of the odd rest."""
    odd = size // (size & -size)
    dice = torch.Generator().manual_seed(0)
    matrix = torch.linalg.qr(torch.randn(odd, odd, dtype=torch.float64, generator=dice)).Q.contiguous()
    pair = torch.tensor([[1.0, 1.0], [1.0, -1.0]], dtype=torch.float64) * 2**-0.5
    while matrix.shape[0] < size:
        matrix = torch.kron(pair, matrix)
    return matrix


def random_hadamard(size: int, seed: int = 0) -> Tensor:
    """`hadamard` with the signs of its rows thrown."""
    dice = torch.Generator().manual_seed(seed)
    return torch.randint(0, 2, (size, 1), generator=dice).double().mul(2).sub(1) * hadamard(size)


def rotated(tensors: dict[str, Tensor], spec: ModelSpec, matrix: Tensor) -> dict[str, Tensor]:
    """The tensors of a checkpoint, by their names there, with `matrix` [hidden, hidden] float64 on its stream. Computed
    in float64 and rounded once."""
    wide = {name: tensor.double() for name, tensor in tensors.items()}
    head = wide.get("lm_head.weight", wide["model.embed_tokens.weight"])
    wide["lm_head.weight"] = head * wide["model.norm.weight"] @ matrix
    wide["model.embed_tokens.weight"] = wide["model.embed_tokens.weight"] @ matrix
    for index in range(spec.layers):
        _rotate_layer(wide, f"model.layers.{index}", spec, matrix)
    for name in wide:
        if name.endswith("norm.weight") and not name.endswith(("q_norm.weight", "k_norm.weight")):
            wide[name] = torch.ones_like(wide[name])
    dtype = tensors["model.embed_tokens.weight"].dtype
    return {name: tensor.to(dtype).contiguous() for name, tensor in wide.items()}


def _rotate_layer(wide: dict[str, Tensor], layer: str, spec: ModelSpec, matrix: Tensor) -> None:
    for norm, linears in BEHIND.items():
        for name in linears:
            weight = f"{layer}.{name}.weight"
            wide[weight] = wide[weight] * wide[f"{layer}.{norm}.weight"] @ matrix
    inner = hadamard(spec.head_dim)
    for leaf in ("weight", "bias"):
        if (name := f"{layer}.self_attn.v_proj.{leaf}") in wide:
            by_head = wide[name].view(spec.kv_heads, spec.head_dim, -1)
            wide[name] = (inner.T @ by_head).view(wide[name].shape)
    out = f"{layer}.self_attn.o_proj.weight"
    wide[out] = (wide[out].view(spec.hidden_size, -1, spec.head_dim) @ inner).flatten(1)
    for name in (f"{layer}.{writer}.{leaf}" for writer in WRITERS for leaf in ("weight", "bias")):
        if name in wide:
            wide[name] = matrix.T @ wide[name]


def main(source: Path, out: Path) -> None:
    """Write `source` rotated to the folder `out`."""
    spec = open_checkpoint(str(source)).spec
    matrix = random_hadamard(spec.hidden_size)
    tensors = rotated(load_file(source / "model.safetensors"), spec, matrix)
    write_derived(source, out, tensors, {"tie_word_embeddings": False})
    save_file({"rotation": matrix}, out / MATRIX)


if __name__ == "__main__":
    given = [Path(argument) for argument in sys.argv[1:]]
    defaults = [ASSETS / "demo", ASSETS / "demo-rotated"]
    main(*given, *defaults[len(given) :])
