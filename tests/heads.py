"""Tiny EAGLE heads with random weights, beside the tiny checkpoints of conftest."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from specdecodes.models.eagle import EagleSpec
from specdecodes.models.eagle_files import save_head
from specdecodes.models.loading import open_checkpoint

REDUCED = 61  # tokens that a tiny EAGLE-3 head knows of the 97


def fields_for(target: Path, kind: str, **fields: Any) -> dict[str, Any]:
    """The config of a head for a tiny target."""
    config = json.loads((target / "config.json").read_text())
    names = ("hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads", "rms_norm_eps")
    base = {name: config[name] for name in (*names, "vocab_size")}
    base |= {"architecture": kind, "head_dim": base["hidden_size"] // base["num_attention_heads"]}
    base |= {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4}}
    if kind == "eagle3":
        base |= {"draft_vocab_size": REDUCED, "target_layers": [1, 2, 4]}
    return base | fields


def random_tensors(spec: EagleSpec, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)

    def weight(shape: tuple[int, ...]) -> Tensor:
        values = torch.randn(shape, generator=generator)
        return 0.15 * values if len(shape) > 1 else 1 + 0.2 * values

    tensors = {name: weight(shape) for name, shape in spec.tensors().items() if name not in ("d2t", "t2d")}
    if "d2t" in spec.tensors():
        ids = torch.randperm(spec.layer.vocab_size, generator=generator)[: spec.draft_vocab_size].sort().values
        tensors["d2t"] = ids - torch.arange(spec.draft_vocab_size)
        tensors["t2d"] = torch.zeros(spec.layer.vocab_size, dtype=torch.bool).index_fill(0, ids, True)
    return tensors


def head_beside(target: Path, kind: str) -> Path:
    """A random head for `target`, written once."""
    folder = target.with_name(f"{target.name}-{kind}")
    return folder if folder.exists() else write_head(folder, target, kind)


def write_head(
    folder: Path,
    target: Path,
    kind: str = "eagle",
    change: Callable[[dict[str, Tensor]], None] = lambda tensors: None,
    **fields: Any,
) -> Path:
    """A head folder for `target`; `change` may alter the random tensors first."""
    spec = open_checkpoint(str(target)).spec
    config = fields_for(target, kind, **fields)
    tensors = random_tensors(EagleSpec.of(config, spec))
    change(tensors)
    save_head(folder, config, tensors, spec)
    return folder
