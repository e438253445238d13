"""Checkpoints that torch.save wrote, read in place too: zip files in which tensors lie uncompressed.

Older models come so, and QServe's. Nothing in such a file is run, and no weight is read to find out where it lies.
"""

from __future__ import annotations

import pickle
from pathlib import Path

import torch
from torch import Tensor

from specdecodes.errors import CheckpointError
from specdecodes.offload.storage.store import TensorSpan

PATTERNS = ("pytorch_model*.bin", "quant_model.pt")  # Transformers' names, and DeepCompressor's


def pickled_files(folder: Path) -> list[Path]:
    """The files to read in a folder without safetensors; an index may list some that are not there."""
    if any(folder.glob("*.safetensors")):
        return []
    return sorted(path for pattern in PATTERNS for path in folder.glob(pattern))


def read_pickled(path: Path) -> dict[str, TensorSpan]:
    """Every tensor of a file, by name. Raises CheckpointError for a file that is cut or holds something else."""
    try:
        held = torch.load(path, map_location="meta", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"{path} could not be read as tensors and nothing else: {reason}") from error
    if not isinstance(held, dict):
        raise CheckpointError(f"{path} holds something other than named tensors.")
    return {name: _span(path, name, tensor) for name, tensor in held.items() if isinstance(tensor, Tensor)}


def _span(path: Path, name: str, tensor: Tensor) -> TensorSpan:
    start = tensor.untyped_storage()._checkpoint_offset
    if start is None or not tensor.is_contiguous():
        raise CheckpointError(
            f"{name} does not lie in one piece in {path}; load the file with torch, and save its tensors, contiguous, "
            "with safetensors.torch.save_file as model.safetensors beside it."
        )
    offset = int(start + tensor.storage_offset() * tensor.element_size())
    return TensorSpan(name, tensor.dtype, tuple(tensor.shape), path, offset, int(tensor.nbytes))
