"""How a checkpoint's linears are stored: full weights or the tensors of a quantized format, by headers alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from specdecodes.errors import CheckpointError
from specdecodes.models.families import ModelSpec
from specdecodes.offload.storage.store import TensorSpan
from specdecodes.quant import Rules
from specdecodes.quant.checkpoints import LinearLayout

Spans = Mapping[str, TensorSpan]


def tensors_of(index: int, spec: ModelSpec, layout: LinearLayout | None, spans: Spans) -> dict[str, TensorSpan]:
    """The tensors of one layer by their name inside it; of a quantized linear whatever is there, a bias included."""
    prefix, found = f"model.layers.{index}.", {}
    for name in spec.layer_tensors():
        path, _, leaf = name.rpartition(".")
        if layout is None or f"{prefix}{path}.{layout.marker}" not in spans:
            found[name] = spans[prefix + name]
        elif leaf == "weight":
            parts = [*layout.parts(*spec.linears()[path]), "bias"]
            found |= {f"{path}.{part}": spans[key] for part in parts if (key := f"{prefix}{path}.{part}") in spans}
    return found


def rules_of(spec: ModelSpec, layout: LinearLayout | None, spans: Spans) -> Rules:
    """The schemes of the linears that come quantized; empty where none do, by config or by tensors."""
    if layout is None:
        return Rules(())
    schemes = {}
    for index in range(spec.layers):
        for path, shape in spec.linears().items():
            stem = f"model.layers.{index}.{path}."
            there = {part: spans[stem + part].dtype for part in layout.parts(*shape) if stem + part in spans}
            schemes[f"layers.{index}.{path}"] = layout.scheme(there) if layout.marker in there else None
    usual = Counter(schemes.values()).most_common(1)[0][0]
    return Rules((("*", usual), *((path, scheme) for path, scheme in schemes.items() if scheme != usual)))


def check_linears(folder: Path, spec: ModelSpec, layout: LinearLayout, spans: Spans) -> set[str]:
    """Check the tensors of every quantized linear; gives the names that stand for full weights and biases.

    Raises CheckpointError naming the tensor, or the config's field where no linear is quantized at all.
    """
    stood_for: set[str] = set()
    for index in range(spec.layers):
        for path, shape in spec.linears().items():
            stem = f"model.layers.{index}.{path}."
            if stem + layout.marker not in spans:
                continue
            for part, wanted in layout.parts(*shape).items():
                if stem + part in spans:
                    _check_part(folder, spans[stem + part], wanted.shape, wanted.shapes, wanted.dtypes)
                elif not wanted.optional:
                    raise CheckpointError(
                        f"{folder} lacks the tensor {stem}{part} that quantization_config in config.json calls for; "
                        "download the checkpoint again."
                    )
            stood_for |= {f"{stem}weight", f"{stem}bias"}
    if not stood_for:
        raise CheckpointError(
            f"quantization_config.quant_method in config.json of {folder} calls for quantized linears, but none has "
            f"the tensor {layout.marker}."
        )
    return stood_for


def _check_part(
    folder: Path,
    span: TensorSpan,
    shape: tuple[int, ...],
    others: tuple[tuple[int, ...], ...],
    dtypes: tuple[object, ...],
) -> None:
    if tuple(span.shape) not in (shape, *others):
        raise CheckpointError(
            f"{span.name} in {folder} has shape {list(span.shape)}; quantization_config in config.json calls for "
            f"{list(shape)}."
        )
    if span.dtype not in dtypes:
        raise CheckpointError(
            f"{span.name} in {folder} is {span.dtype}; quantization_config in config.json calls for {dtypes[0]}."
        )
