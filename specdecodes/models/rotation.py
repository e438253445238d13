"""Rotated models, as QuaRot, QQQ and QoQ make them: the same function, its residual stream in another basis.

The weight of every norm is folded into the linears behind it and set to one; what writes to the stream or reads from it
is multiplied with one orthogonal matrix Q [hidden, hidden], mostly a Hadamard matrix. A row h of the stream becomes
h Q, whose root mean square is h's, so logits stay as they are. Embedding and head part ways, tied or not. What else is
rotated (values inside a head) cancels inside a layer. Such a checkpoint loads as any other; only who reads its hidden
states has to know Q, which no config says.
"""

from __future__ import annotations

import pickle
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from specdecodes.errors import CheckpointError
from specdecodes.models.loading import Checkpoint
from specdecodes.offload.storage.store import load_tensor

TOLERANCE = 0.01
"""What rounding may have changed, relative to the whole: tables in bfloat16 that were rounded twice differ by 0.002."""
_ROWS = 8  # of a table, for each of its columns: more change nothing


def find_rotation(original: Checkpoint, rotated: Checkpoint, file: Path | None = None) -> Tensor:
    """The matrix Q [hidden, hidden] float64, on the CPU, that makes the stream of `original` that of `rotated`.

    From `file` where one is given, else from the two embeddings and the two heads with their norms (orthogonal
    Procrustes). Checked either way: it is orthogonal, and leads from one embedding to the other and from one head to
    the other. Raises CheckpointError.
    """
    _check_shapes(original, rotated)
    embeddings = _entered(_rows(original, "embedding"), _rows(rotated, "embedding"))
    heads = _rows(original, "head.weight") * final_norm(original), _rows(rotated, "head.weight") * final_norm(rotated)
    matrix = _procrustes(embeddings, heads) if file is None else read_rotation(file)
    hidden, models = original.spec.hidden_size, f"{original.folder.name} to that of {rotated.folder.name}"
    if matrix.shape != (hidden, hidden):
        raise CheckpointError(f"{file} holds a matrix {list(matrix.shape)}; the hidden size is {hidden}.")
    if (error := _distance(matrix.T @ matrix, torch.eye(hidden, dtype=torch.float64))) > TOLERANCE:
        raise CheckpointError(f"the matrix in {file} is not orthogonal: its product with itself is off by {error:.2g}.")
    leads = "no rotation leads" if file is None else f"the matrix in {file} does not lead"
    if (error := _distance(embeddings[0] @ matrix, embeddings[1])) > TOLERANCE:
        raise CheckpointError(
            f"{leads} from the embedding of {models}: {error:.2g} of it is left. Give the model in full precision that "
            "was rotated."
        )
    if (error := _distance(heads[0] @ matrix, heads[1])) > TOLERANCE:
        raise CheckpointError(
            f"what leads from the embedding of {models} does not lead from head to head: {error:.2g} of it is left. A "
            "rotated model has a head of its own, with the weight of the final norm folded in."
        )
    return matrix


def read_rotation(file: Path) -> Tensor:
    """The one matrix in a safetensors or PyTorch file, as float64. Raises CheckpointError."""
    try:
        safe = file.suffix == ".safetensors"
        held = load_file(file) if safe else torch.load(file, map_location="cpu", weights_only=True)
    except (OSError, SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"{file} could not be read as tensors and nothing else: {reason}") from error
    found = list(held.values()) if isinstance(held, dict) else [held]
    if len(found) != 1 or not isinstance(found[0], Tensor) or found[0].ndim != 2:
        raise CheckpointError(f"{file} does not hold one matrix and nothing else.")
    return found[0].double()


def final_norm(checkpoint: Checkpoint) -> Tensor:
    """The weight of the final norm [hidden] float64."""
    return load_tensor(checkpoint.outer()["norm.weight"]).double()


def back_from_norm(original: Checkpoint, rotated: Checkpoint, matrix: Tensor) -> Tensor:
    """The linear [hidden, hidden] float64 that takes what the rotated model's final norm gives to what the original's
    does: y = W x, with W = diag(original weight) Q diag(1 / rotated weight). The latter is one, as a rule."""
    own = final_norm(rotated)
    if not bool(own.all()):
        raise CheckpointError(f"model.norm.weight in {rotated.folder} has zeros, behind which nothing can be seen.")
    return final_norm(original)[:, None] * matrix / own


def _check_shapes(original: Checkpoint, rotated: Checkpoint) -> None:
    for what in ("hidden_size", "vocab_size", "layers"):
        ours, theirs = vars(original.spec)[what], vars(rotated.spec)[what]
        if ours != theirs:
            raise CheckpointError(
                f"{rotated.folder} is no rotated form of {original.folder}: {what} is {theirs} and not {ours}."
            )


def _rows(checkpoint: Checkpoint, name: str) -> Tensor:
    """Rows of the embedding or head, evenly spread, as float64."""
    span = checkpoint.outer()[name]
    count, width = span.shape
    return load_tensor(span)[:: max(1, count // (_ROWS * width))].double()


def _entered(original: Tensor, rotated: Tensor) -> tuple[Tensor, Tensor]:
    """The two embeddings, the original one without its rows' means where the other was made so, as QuaRot's code does:
    a rotation keeps the norm of the whole."""
    centred, norm = original - original.mean(-1, keepdim=True), torch.linalg.norm(rotated)
    taken = min(original, centred, key=lambda table: float((torch.linalg.norm(table) - norm).abs()))
    return taken, rotated


def _procrustes(*pairs: tuple[Tensor, Tensor]) -> Tensor:
    """The orthogonal matrix that takes the rows of every first table nearest to those of the second (Schoenemann 1966);
    each pair counts alike."""
    products = [ours.T @ theirs / torch.linalg.norm(ours) ** 2 for ours, theirs in pairs]
    left, _, right = torch.linalg.svd(torch.stack(products).sum(0))
    matrix = left @ right
    whole = matrix * matrix.shape[0] ** 0.5
    if bool(((whole.abs() - 1).abs() < 0.5).all()):  # a Hadamard matrix: what rounding has added is known
        return torch.sign(whole) / matrix.shape[0] ** 0.5
    return matrix


def _distance(found: Tensor, wanted: Tensor) -> float:
    return float(torch.linalg.norm(found - wanted) / torch.linalg.norm(wanted))
