"""From a hub id or a folder to a checked `Checkpoint`, and from that to resident weights."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from specdecodes.errors import CheckpointError
from specdecodes.models.decoder import Decoder
from specdecodes.models.families import ModelSpec, spec_of
from specdecodes.models.stored import check_linears, rules_of, tensors_of
from specdecodes.offload.storage.pages import side_by_side
from specdecodes.offload.storage.pickled import PATTERNS, pickled_files, read_pickled
from specdecodes.offload.storage.store import TensorSpan, load_tensor, read_index
from specdecodes.quant import Rules
from specdecodes.quant.checkpoints import LinearLayout, find_layout
from specdecodes.quant.codes import Solved

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
_FILES = ("*.safetensors", "*.json", "*.jinja", "tokenizer*", "*.model", "*.txt")
_PART = 2**26  # bytes


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint on disk whose tensors were found, with the right shapes. Nothing of its weights is loaded.

    `layout` says how linears are stored that were quantized elsewhere, and `rules` which are and how they run.
    """

    folder: Path
    spec: ModelSpec
    dtype: torch.dtype
    eos_ids: tuple[int, ...]
    spans: dict[str, TensorSpan]
    layout: LinearLayout | None = None
    rules: Rules = Rules(())

    @property
    def files(self) -> tuple[Path, ...]:
        """The weight files, in order of name."""
        return tuple(sorted({span.path for span in self.spans.values()}))

    @property
    def linears(self) -> tuple[str, ...]:
        """The path of every linear of every layer: `layers.0.mlp.up_proj`."""
        return tuple(f"layers.{index}.{path}" for index in range(self.spec.layers) for path in self.spec.linears())

    def layer(self, index: int) -> dict[str, TensorSpan]:
        """Tensors of one layer by their name inside it."""
        return tensors_of(index, self.spec, self.layout, self.spans)

    def outer(self) -> dict[str, TensorSpan]:
        """Embedding, final norm and head, by the decoder's names; a tied head is the embedding's span."""
        embedding = self.spans["model.embed_tokens.weight"]
        head = embedding if self.spec.tied else self.spans["lm_head.weight"]
        return {"embedding": embedding, "norm.weight": self.spans["model.norm.weight"], "head.weight": head}


def open_checkpoint(model: str, revision: str | None = None) -> Checkpoint:
    """Find, read and check a checkpoint. Raises CheckpointError or UnsupportedModelError."""
    folder = locate(model, revision)
    config = _config(folder)
    spec = spec_of(config)
    spans = _spans(folder)
    if spec.tied and _has_own_head(spans):
        spec = replace(spec, tied=False)
    if "lm_head.weight" not in spans and not spec.tied:
        raise CheckpointError(f"{folder} has no lm_head.weight and config.json does not tie it to the embedding.")
    layout = find_layout(json.loads((folder / "config.json").read_text(encoding="utf-8")), spans)
    stood_for = check_linears(folder, spec, layout, spans) if layout is not None else set()
    _check_shapes(folder, spec, spans, stood_for)
    dtype, rules = spans["model.embed_tokens.weight"].dtype, rules_of(spec, layout, spans)
    return Checkpoint(folder, spec, dtype, _eos_ids(folder, config), spans, layout, rules)


def _spans(folder: Path) -> dict[str, TensorSpan]:
    """Every tensor of a folder; of what torch.save wrote, where it has no safetensors."""
    spans: dict[str, TensorSpan] = {}
    for path in pickled_files(folder):
        spans |= read_pickled(path)
    return spans or read_index(folder)


def _has_own_head(spans: Mapping[str, TensorSpan]) -> bool:
    """Whether the files have a head that is not the embedding, whatever config.json says: a rotated model must, and its
    makers may have left `tie_word_embeddings` as it was. A few rows show it."""
    head, table = spans.get("lm_head.weight"), spans.get("model.embed_tokens.weight")
    if head is None or table is None or len(head.shape) != 2:
        return False
    if (head.shape, head.dtype) != (table.shape, table.dtype):
        return True
    some = (range(index, index + 1) for index in range(0, head.shape[0], -(-head.shape[0] // 8)))
    return any(not torch.equal(_rows(head, rows), _rows(table, rows)) for rows in some)


def _rows(span: TensorSpan, rows: range) -> Tensor:
    """Rows of a matrix, those of `rows` one after another."""
    each = span.nbytes // span.shape[0]
    shape, offset = (len(rows), *span.shape[1:]), span.offset + rows.start * each
    return load_tensor(replace(span, shape=shape, offset=offset, nbytes=len(rows) * each))


def read_spec(model: str) -> ModelSpec:
    """A model's spec from its config alone; nothing else is downloaded."""
    return spec_of(_config(locate(model, patterns=("config.json",))))


def locate(model: str, revision: str | None = None, patterns: Sequence[str] = _FILES) -> Path:
    """The folder of a local path or of a hub id (its files of `patterns` downloaded, or taken from the hub's cache)."""
    path = Path(model).expanduser()
    if path.is_dir():
        return path
    if path.is_file():
        raise CheckpointError(f"{model} is a file; give the folder that holds config.json and the safetensors.")
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", model) or model.startswith((".", "assets/")):
        raise CheckpointError(
            f"there is no folder {model}; give a checkpoint folder or a hub id such as Qwen/Qwen2.5-7B-Instruct."
        )
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        folder = Path(snapshot_download(model, revision=revision, allow_patterns=list(patterns)))
        if patterns == _FILES and not any(folder.glob("*.safetensors")):
            snapshot_download(model, revision=revision, allow_patterns=list(PATTERNS))
        return folder
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(
            f"{model} is no folder here and could not be had from the hub ({reason}). Check the name and the network, "
            "set HF_TOKEN for a gated model, or download it and pass its folder with --model."
        ) from error


def load_tokenizer(folder: Path) -> Any:
    """The checkpoint's own tokenizer. Raises CheckpointError when its files are missing or broken."""
    from transformers import AutoTokenizer

    if not any((folder / name).exists() for name in ("tokenizer.json", "tokenizer.model", "vocab.json")):
        raise CheckpointError(
            f"{folder} has no tokenizer (tokenizer.json); copy the tokenizer files of the model into it."
        )
    try:
        return AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError, KeyError) as error:
        raise CheckpointError(f"the tokenizer in {folder} could not be read: {error}") from error


def _config(folder: Path) -> Any:
    from transformers import AutoConfig

    if not (folder / "config.json").exists():
        raise CheckpointError(f"{folder} has no config.json; give the folder of a Transformers checkpoint.")
    try:
        return AutoConfig.from_pretrained(folder)
    except (OSError, ValueError, KeyError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise CheckpointError(
            f"config.json in {folder} could not be read: {reason} Give the folder of a whole model (an EAGLE head is "
            "none: it drafts for one with --set method=eagle_sd), or download it again."
        ) from error


def _eos_ids(folder: Path, config: Any) -> tuple[int, ...]:
    """End-of-sequence ids: generation_config.json's, else config.json's."""
    from transformers import GenerationConfig

    eos = config.eos_token_id
    if (folder / "generation_config.json").exists():
        try:
            eos = GenerationConfig.from_pretrained(folder).eos_token_id or eos
        except (OSError, ValueError) as error:
            raise CheckpointError(
                f"generation_config.json in {folder} could not be read: {error} Download it again, or remove it."
            ) from error
    if eos is None:
        return ()
    return (eos,) if isinstance(eos, int) else tuple(eos)


def _check_shapes(folder: Path, spec: ModelSpec, spans: dict[str, TensorSpan], stood_for: set[str]) -> None:
    """Check all tensors but those that quantized linears stand for."""
    table = (spec.vocab_size, spec.hidden_size)
    wanted: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": table, "model.norm.weight": (spec.hidden_size,)}
    if not spec.tied:
        wanted["lm_head.weight"] = table
    for index in range(spec.layers):
        wanted |= {f"model.layers.{index}.{name}": shape for name, shape in spec.layer_tensors().items()}
    for name, shape in wanted.items():
        if name in stood_for:
            continue
        if name not in spans:
            raise CheckpointError(
                f"{folder} lacks the tensor {name} that config.json calls for; download the checkpoint again."
            )
        if tuple(spans[name].shape) != shape:
            raise CheckpointError(
                f"{name} in {folder} has shape {list(spans[name].shape)}; config.json calls for {list(shape)}."
            )
        if not spans[name].dtype.is_floating_point or spans[name].dtype.itemsize < 2:
            raise CheckpointError(
                f"{name} in {folder} is {spans[name].dtype}, but config.json has no quantization_config that says how "
                "it was quantized."
            )


def load_outer(decoder: Decoder, checkpoint: Checkpoint, device: torch.device, *, table: Tensor | None = None) -> None:
    """Load embedding, final norm and head; a tied head shares the embedding's memory. `table` [vocab, hidden]: memory
    that the embedding is read into, if not the device's."""
    outer = checkpoint.outer()
    if checkpoint.spec.tied:
        del outer["head.weight"]
    if table is not None:
        _read_into(table, outer.pop("embedding"))
    tensors = side_by_side(load_tensors(outer, decoder.dtype, device))
    decoder.embedding = tensors["embedding"] if table is None else table
    decoder.norm.weight = tensors["norm.weight"]
    decoder.head.weight = tensors.get("head.weight", decoder.embedding)


def load_layers(decoder: Decoder, checkpoint: Checkpoint, layers: Iterable[int], device: torch.device) -> None:
    """Load the named layers, one at a time."""
    stack = decoder.stack
    for index in layers:
        stack[index].put(side_by_side(load_tensors(checkpoint.layer(index), decoder.dtype, device)))


def load_linear(checkpoint: Checkpoint, index: int, path: str) -> Solved:
    """A linear that came quantized, on the CPU. Raises CheckpointError for tensors that contradict the config."""
    assert checkpoint.layout is not None, "a checkpoint with quantized linears has a layout"
    spans, stem = checkpoint.layer(index), f"{path}."
    parts = {name.removeprefix(stem): load_tensor(span) for name, span in spans.items() if name.startswith(stem)}
    bias = parts.pop("bias", None)
    codes = checkpoint.layout.read(parts, f"model.layers.{index}.{path}")
    return Solved(codes.first(checkpoint.spec.linears()[path][0]), bias)


def _read_into(table: Tensor, span: TensorSpan) -> None:
    """A part at a time, so that memory holds it once."""
    total, at_once = span.shape[0], max(1, _PART * span.shape[0] // span.nbytes)
    for start in range(0, total, at_once):
        rows = range(start, min(start + at_once, total))
        table[rows.start : rows.stop].copy_(_rows(span, rows))


def load_tensors(spans: Mapping[str, TensorSpan], dtype: torch.dtype, device: torch.device) -> dict[str, Tensor]:
    """Tensors in memory of their own, by the names of `spans`."""
    return {name: load_tensor(span).to(device=device, dtype=dtype) for name, span in spans.items()}
