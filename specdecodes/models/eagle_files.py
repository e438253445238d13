"""EAGLE heads on disk: our own folder, and the layouts in which their authors publish them."""

from __future__ import annotations

import json
import pickle
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from specdecodes.errors import CheckpointError
from specdecodes.models.eagle import EAGLE, EAGLE3, LAYER, MAPS, EagleSpec
from specdecodes.models.families import ModelSpec
from specdecodes.models.loading import locate
from specdecodes.offload.storage.store import SINGLE, load_tensor, read_index

BIN = "pytorch_model.bin"
_FILES = ("*.safetensors", "*.safetensors.index.json", BIN, "config.json")
_SHARED = "embed_tokens.weight"  # the target's own, which published files may repeat
_TURNED = "rms_norm_rotation.weight"  # of a head that SpecMQuant has converted for a rotated target
_FIELDS = (
    *("hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads", "head_dim", "rms_norm_eps"),
    *("vocab_size", "hidden_act", "max_position_embeddings", "draft_vocab_size"),
)
_AS_HERE = {"norm_before_residual": False, "norm_output": True, "fc_norm": False}
"""Fields of later EAGLE-3 variants that change the forward, mostly without a trace among the tensors: what each is in
ours."""


@dataclass(frozen=True)
class HeadFiles:
    """A head on disk that fits its target. `fields`: its config; `load` reads the tensors, named as in
    `EagleSpec.tensors`."""

    where: Path
    fields: Mapping[str, Any]
    spec: EagleSpec
    published: bool
    load: Callable[[], dict[str, Tensor]]


def open_head(model: str, target: ModelSpec) -> HeadFiles:
    """Find and check a head for `target`: a folder or hub id, in our own layout or as published.

    Raises CheckpointError naming the first tensor or field that is missing, unknown or misshapen.
    """
    folder = locate(model, patterns=_FILES)
    fields = _config(folder / "config.json")
    return _open_own(folder, fields, target) if "architecture" in fields else _open_published(folder, fields, target)


def save_head(folder: Path, fields: Mapping[str, Any], tensors: Mapping[str, Tensor], target: ModelSpec) -> EagleSpec:
    """Write a head folder: config.json and model.safetensors, checked against `target` first."""
    spec = EagleSpec.of(fields, target, str(folder / "config.json"))
    check_tensors(spec.tensors(), tensors, folder / SINGLE)
    _check_maps(tensors, spec.layer.vocab_size, folder / SINGLE)
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / SINGLE)
    (folder / SINGLE).chmod(0o644)  # safetensors keeps its files from everybody else
    (folder / "config.json").write_text(json.dumps(dict(fields), indent=2) + "\n", encoding="utf-8")
    return spec


def check_tensors(wanted: Mapping[str, tuple[int, ...]], found: Mapping[str, Any], where: Path) -> None:
    """Refuse a missing, extra or misshapen tensor by its name; `found` has anything with a shape and a dtype."""
    for name, shape in wanted.items():
        if name not in found:
            raise CheckpointError(f"{where} lacks the tensor {name} {list(shape)} that an EAGLE head of this kind has.")
        if tuple(found[name].shape) != shape:
            raise CheckpointError(
                f"{name} in {where} has shape {list(found[name].shape)}; the config and the target call for "
                f"{list(shape)}."
            )
        if found[name].dtype.is_floating_point == (name in MAPS):
            raise CheckpointError(f"{name} in {where} is {found[name].dtype}.")
    extra = sorted(found.keys() - wanted.keys())
    if extra:
        raise CheckpointError(f"{where} has a tensor {extra[0]} that no EAGLE head of this kind has.")


def _check_maps(tensors: Mapping[str, Tensor], vocab_size: int, where: Path) -> None:
    """The two maps of a reduced vocabulary say the same."""
    if "d2t" not in tensors:
        return
    ids = torch.arange(tensors["d2t"].shape[0]) + tensors["d2t"].cpu()
    if int(ids.min()) < 0 or int(ids.max()) >= vocab_size or ids.unique().shape != ids.shape:
        raise CheckpointError(f"d2t in {where} does not lead to different tokens of the target's {vocab_size}.")
    if not torch.equal(tensors["t2d"].cpu().nonzero().flatten(), ids.sort().values):
        raise CheckpointError(f"t2d in {where} does not mark the tokens that d2t leads to.")


def _config(path: Path) -> dict[str, Any]:
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(f"there is no {path}; give the folder or hub id of an EAGLE head.") from error
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} could not be read: {error}.") from error
    if not isinstance(fields, dict):
        raise CheckpointError(f"{path} is no config: it holds a {type(fields).__name__}.")
    return fields


def _open_own(folder: Path, fields: dict[str, Any], target: ModelSpec) -> HeadFiles:
    spec = EagleSpec.of(fields, target, str(folder / "config.json"))
    spans = read_index(folder)
    check_tensors(spec.tensors(), spans, folder / SINGLE)

    def load() -> dict[str, Tensor]:
        tensors = {name: load_tensor(span) for name, span in spans.items()}
        _check_maps(tensors, target.vocab_size, folder / SINGLE)
        return tensors

    return HeadFiles(folder, fields, spec, False, load)


def _open_published(folder: Path, config: dict[str, Any], target: ModelSpec) -> HeadFiles:
    """The layouts of yuhuili/EAGLE-*, yuhuili/EAGLE3-* and those trained with the same code; and of YudiZh/EAGLE-*,
    EAGLE-1/2 heads converted for rotated targets."""
    where, tensors = _published_tensors(folder)
    fields = _fields_of(config, tensors, target, folder / "config.json")
    spec = EagleSpec.of(fields, target, str(folder / "config.json"))
    prefix = "midlayer." if any(name.startswith("midlayer.") for name in tensors) else LAYER
    theirs = {name: name.replace("fusion.", "fc.").replace(LAYER, prefix) for name in spec.tensors()}
    if spec.rotated:
        theirs["rotation.weight"] = _TURNED
    elif _SHARED in tensors:
        check_tensors({_SHARED: (target.vocab_size, target.hidden_size)}, {_SHARED: tensors.pop(_SHARED)}, where)
    if spec.draft_vocab_size == target.vocab_size and spec.architecture == EAGLE3 and not tensors.keys() & set(MAPS):
        tensors["d2t"] = torch.zeros(target.vocab_size, dtype=torch.int64)  # a whole vocabulary needs no map
        tensors["t2d"] = torch.ones(target.vocab_size, dtype=torch.bool)
    check_tensors({theirs[name]: shape for name, shape in spec.tensors().items()}, tensors, where)

    def load() -> dict[str, Tensor]:
        _check_maps(tensors, target.vocab_size, where)
        return {name: tensors[their].clone() for name, their in theirs.items()}

    return HeadFiles(folder, fields, spec, True, load)


def _published_tensors(folder: Path) -> tuple[Path, dict[str, Tensor]]:
    """The file and its tensors; those of a .bin stay on disk until they are looked at."""
    path = folder / BIN
    if (folder / SINGLE).exists() or not path.exists():
        return folder / SINGLE, {name: load_tensor(span) for name, span in read_index(folder).items()}
    try:
        tensors = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"{path} could not be read as tensors and nothing else: {reason}") from error
    if not isinstance(tensors, dict) or not all(isinstance(value, Tensor) for value in tensors.values()):
        raise CheckpointError(f"{path} holds something other than named tensors.")
    return path, tensors


def _fields_of(
    config: Mapping[str, Any], tensors: Mapping[str, Tensor], target: ModelSpec, where: Path
) -> dict[str, Any]:
    """Our config from a published one. What it leaves out, its authors' code takes from defaults, or the file says."""
    layers = config.get("num_hidden_layers", 1)
    if layers != 1:
        raise CheckpointError(f"{where}: num_hidden_layers is {layers}; an EAGLE head has one layer.")
    for name, ours in _AS_HERE.items():
        if config.get(name, ours) != ours:
            raise CheckpointError(f"{where}: {name} is {config[name]}; heads of that variant are not supported.")
    eagle3 = "draft_vocab_size" in config or any(name.endswith("hidden_norm.weight") for name in tensors)
    fields: dict[str, Any] = {"architecture": EAGLE3 if eagle3 else EAGLE}
    fields |= {name: config[name] for name in _FIELDS if config.get(name) is not None}
    rope = {"rope_type": "default", "rope_theta": config.get("rope_theta", 10000.0)}
    scaling = config.get("rope_parameters") or config.get("rope_scaling") or {}
    rope |= {"rope_type" if name == "type" else name: value for name, value in scaling.items()}
    fields["rope_parameters"] = rope
    biased = any(name.endswith("self_attn.q_proj.bias") for name in tensors)
    fields["attention_bias"] = config.get("qkv_bias", biased)
    fields["fusion_bias"] = "fc.bias" in tensors if eagle3 else config.get("bias", "fc.bias" in tensors)
    if _TURNED in tensors:
        fields["rotated"] = True
    if eagle3:
        fields["target_layers"] = _target_layers(config, target)
        fields.setdefault("draft_vocab_size", target.vocab_size)
    return fields


def _target_layers(config: Mapping[str, Any], target: ModelSpec) -> list[int]:
    """Which hidden states EAGLE-3 was trained on: what enters layers 2, n/2 and n-3, unless the config lists layers: in
    `eagle_config` those whose *outputs* are meant (SpecForge, SGLang), else those that they enter (vLLM)."""
    listed = (config.get("eagle_config") or {}).get("eagle_aux_hidden_state_layer_ids")
    if listed:
        return [index + 1 for index in listed]
    if entered := config.get("eagle_aux_hidden_state_layer_ids"):
        return list(entered)
    return [2, target.layers // 2, target.layers - 3]
