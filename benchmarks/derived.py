"""A checkpoint made of another one, for trials: other weights, the same tokenizer."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor


def write_derived(source: Path, out: Path, tensors: dict[str, Tensor], config: Mapping[str, Any]) -> None:
    """`tensors` to the folder `out`, in one file, with config.json as in `source` but for the entries of `config`, and
    the tokenizer's files."""
    out.mkdir(parents=True, exist_ok=True)
    for path in source.iterdir():
        if path.is_file() and path.suffix != ".safetensors" and path.name not in ("config.json", "README.md"):
            shutil.copyfile(path, out / path.name)
    save_file(tensors, out / "model.safetensors", {"format": "pt"})
    changed = json.loads((source / "config.json").read_text()) | config
    (out / "config.json").write_text(json.dumps(changed, indent=2))
    print(f"{out}: {sum(tensor.nbytes for tensor in tensors.values()) / 1e6:.1f} MB")
