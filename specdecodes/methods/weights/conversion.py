"""A quantized checkpoint in our own form: shard by shard, each written whole or not at all, always the same bytes."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm

from specdecodes.errors import CheckpointError
from specdecodes.models.loading import Checkpoint, load_linear, open_checkpoint
from specdecodes.notify import Notify
from specdecodes.offload.storage.store import INDEX, SINGLE, TensorSpan, load_tensor
from specdecodes.quant import Execution
from specdecodes.quant.cache import checkpoint_identity
from specdecodes.quant.checkpoints import PackedLayout
from specdecodes.quant.checkpoints.packed import KERNELS
from specdecodes.quant.kernels.choice import build_linear
from specdecodes.units import format_bytes

FORM = "1"


@dataclass(frozen=True)
class Conversion:
    """What was done: the kernel that the new checkpoint streams for, shards written and kept, and all their bytes."""

    kernel: str
    written: int
    kept: int
    nbytes: int


def convert_checkpoint(source: str, out: Path, device: str, progress: Notify) -> Conversion:
    """Write `source`, a folder or hub id, to the folder `out` for `device`, cpu or cuda.

    Shards keep their names and what they hold; those that are there already are not written again. config.json comes
    last, so half a conversion is no checkpoint. Raises CheckpointError.
    """
    checkpoint = open_checkpoint(source)
    layout = _layout(checkpoint, device)
    if out.resolve() == checkpoint.folder.resolve():
        raise CheckpointError(f"{out} is the checkpoint itself; give a new folder.")
    digest = hashlib.sha256(f"{FORM} {layout.config()} {checkpoint_identity(checkpoint.files, times=False)}".encode())
    about = {"conversion": digest.hexdigest()}  # one entry: of several the order differs from run to run
    _check_room(checkpoint, out)
    out.mkdir(parents=True, exist_ok=True)
    holdings, written = _holdings(checkpoint), 0
    places: dict[str, str] = {}
    for path in tqdm(checkpoint.files, desc="shards", unit="shard", leave=False, disable=None):
        shard = out / _shard_name(path)
        if not _is_whole(shard, about):
            tensors = _tensors(checkpoint, layout, *holdings[path])
            part = out / f".{shard.name}.part"
            save_file(tensors, part, about)
            part.replace(shard)
            written += 1
            progress(f"{shard.name}: {format_bytes(shard.stat().st_size)}")
        with safe_open(shard, framework="pt") as file:
            places |= dict.fromkeys(sorted(file.keys()), shard.name)
    nbytes = sum((out / _shard_name(path)).stat().st_size for path in checkpoint.files)
    _write_rest(checkpoint, out, layout, places, nbytes)
    return Conversion(layout.kernel, written, len(checkpoint.files) - written, nbytes)


def _shard_name(path: Path) -> str:
    """A shard's own, or the safetensors' for what torch.save wrote: pytorch_model-00001-of-00004.bin."""
    if path.suffix == ".safetensors":
        return path.name
    number = path.stem.removeprefix("pytorch_model")
    return SINGLE if number == path.stem else f"model{number}.safetensors"


def _layout(checkpoint: Checkpoint, device: str) -> PackedLayout:
    if checkpoint.layout is None:
        raise CheckpointError(f"{checkpoint.folder} is not quantized (config.json has no quantization_config).")
    if isinstance(checkpoint.layout, PackedLayout):
        raise CheckpointError(f"{checkpoint.folder} is in our own form already, for {checkpoint.layout.kernel}.")
    scheme = checkpoint.rules.schemes[0]
    if len(checkpoint.rules.schemes) > 1:
        raise CheckpointError(f"{checkpoint.folder} mixes schemes ({checkpoint.rules}), which our form does not hold.")
    kernel = Execution(device, draft=False).choose(scheme).kernel
    if device == "cuda" and not scheme.activations and scheme.bits <= 4:
        kernel = "w4a16"  # which needs no GPU to be laid out
    kernel = kernel if kernel in KERNELS else "reference"
    if kernel == "reference":
        return PackedLayout(kernel, replace(scheme, kernel="reference"))
    return PackedLayout(kernel, replace(scheme, bits=4))


def _holdings(checkpoint: Checkpoint) -> dict[Path, tuple[list[tuple[int, str]], list[TensorSpan]]]:
    """What each shard will hold: linears, by layer and path, whose first tensor it holds, and tensors as they are."""
    held: dict[Path, tuple[list[tuple[int, str]], list[TensorSpan]]] = {path: ([], []) for path in checkpoint.files}
    taken = set()
    for index in range(checkpoint.spec.layers):
        spans = checkpoint.layer(index)
        for path in checkpoint.spec.linears():
            if checkpoint.rules.scheme_of(f"layers.{index}.{path}") is not None:
                parts = sorted(name for name in spans if name.startswith(f"{path}."))
                held[spans[parts[0]].path][0].append((index, path))
                taken |= {f"model.layers.{index}.{name}" for name in parts}
    for name, span in sorted(checkpoint.spans.items()):
        if name not in taken:
            held[span.path][1].append(span)
    return held


def _tensors(
    checkpoint: Checkpoint, layout: PackedLayout, linears: list[tuple[int, str]], others: list[TensorSpan]
) -> dict[str, Tensor]:
    """The tensors of a new shard."""
    tensors = {span.name: load_tensor(span) for span in others}
    for index, path in linears:
        name = f"model.layers.{index}.{path}"
        linear = build_linear(load_linear(checkpoint, index, path), layout.stored, layout.kernel, name, "cpu")
        tensors |= {f"{name}.{part}": value.clone() for part, value in linear.state_dict().items()}
    return tensors


def _is_whole(path: Path, about: Mapping[str, str]) -> bool:
    """Whether a shard of this very conversion is there. A shard gets its name when all of it is written."""
    try:
        with safe_open(path, framework="pt") as file:
            return file.metadata() == about
    except (OSError, SafetensorError):
        return False


def _write_rest(checkpoint: Checkpoint, out: Path, layout: PackedLayout, places: dict[str, str], nbytes: int) -> None:
    """Index, tokenizer and config."""
    for path in sorted(checkpoint.folder.iterdir()):
        weights = path.suffix in (".safetensors", ".bin", ".pt") or path.name.endswith(".index.json")
        if path.is_file() and not weights and path.name != "config.json":
            shutil.copyfile(path, out / path.name)
    if not (out / SINGLE).exists():
        _write_json(out / INDEX, {"metadata": {"total_size": nbytes}, "weight_map": places})
    config = json.loads((checkpoint.folder / "config.json").read_text(encoding="utf-8"))
    config.pop("compression_config", None)
    _write_json(out / "config.json", config | {"quantization_config": layout.config()})


def _write_json(path: Path, values: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _check_room(checkpoint: Checkpoint, out: Path) -> None:
    there = next(path for path in (out, *out.absolute().parents) if path.exists())
    size, free = sum(path.stat().st_size for path in checkpoint.files), shutil.disk_usage(there).free
    done = sum(file.stat().st_size for file in out.glob("*.safetensors"))
    if size > free + done:
        raise CheckpointError(
            f"{out} has no room for about {format_bytes(size)}: {format_bytes(free)} are free; give a folder on "
            "another disk."
        )
