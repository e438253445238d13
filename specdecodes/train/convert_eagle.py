"""Makes a head folder of an EAGLE head as its authors published it, or one for a rotated form of its target.

    python -m specdecodes.train.convert_eagle SOURCE OUT --model TARGET [--rotation ORIGINAL]

SOURCE is a folder or hub id in the layout of yuhuili/EAGLE-*, yuhuili/EAGLE3-* or heads trained with the same code,
such as leptonai/EAGLE-Qwen2.5-7B-Instruct: a config.json beside pytorch_model.bin or model.safetensors. `eagle_sd` also
takes such a source as it is; a converted one is checked once and read in place.

With `--rotation` TARGET is a rotated form of ORIGINAL, on which the head was trained (see `models.rotation`). Nothing
is trained again. EAGLE-1/2 gets the linear that takes what TARGET's final norm gives to what ORIGINAL's does, and
ORIGINAL's embedding and head; EAGLE-3 gets ORIGINAL's embedding, and its fusion is multiplied with the rotation.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from torch import Tensor

from specdecodes.errors import CheckpointError, reported
from specdecodes.models.eagle import EAGLE3, EagleSpec
from specdecodes.models.eagle_files import HeadFiles, open_head, save_head
from specdecodes.models.loading import Checkpoint, open_checkpoint, read_spec
from specdecodes.models.rotation import back_from_norm, find_rotation
from specdecodes.offload.storage.store import load_tensor


def convert(source: str, out: Path, model: str, rotation: str | None = None, matrix: Path | None = None) -> EagleSpec:
    """Write the head `source` to the folder `out`, checked against the config of its target `model`.

    `rotation` names the model that the head was trained on, where `model` is a rotated form of it; `matrix` is a file
    with the rotation matrix, which the two models' embeddings tell otherwise. Raises CheckpointError naming the first
    tensor or field that is missing, unknown or misshapen, and where no rotation leads from one model to the other.
    """
    target = read_spec(model)
    head = open_head(source, target)
    if out.exists() and any(out.iterdir()):
        raise CheckpointError(f"{out} is not empty; give a new folder.")
    if rotation is None and matrix is not None:
        raise CheckpointError(f"{matrix} is of use with --rotation, which names the model that was rotated.")
    if rotation is not None:
        if head.spec.rotated:
            raise CheckpointError(f"{source} is for a rotated target already: eagle_sd takes it as it is.")
        fields = {**head.fields, "rotated": True}
        return save_head(out, fields, _rotated(head, open_checkpoint(rotation), open_checkpoint(model), matrix), target)
    if not head.published:
        raise CheckpointError(f"{source} is converted already: eagle_sd takes it as it is.")
    return save_head(out, head.fields, head.load(), target)


def _rotated(head: HeadFiles, original: Checkpoint, target: Checkpoint, file: Path | None) -> dict[str, Tensor]:
    """The tensors of `head` for `target`, a rotated form of `original`."""
    matrix, tensors, tables = find_rotation(original, target, file), head.load(), original.outer()
    fusion, kept = tensors["fusion.weight"], {"embed_tokens.weight": load_tensor(tables["embedding"])}
    if head.spec.architecture == EAGLE3:
        seen = fusion.double().view(fusion.shape[0], -1, matrix.shape[0])  # [hidden, hidden states, of each one]
        kept["fusion.weight"] = (seen @ matrix).view(fusion.shape).to(fusion.dtype)
    else:
        kept["rotation.weight"] = back_from_norm(original, target, matrix).to(fusion.dtype)
        kept["lm_head.weight"] = load_tensor(tables["head.weight"])
    return tensors | kept


def describe(spec: EagleSpec) -> str:
    """What a head is, in a few words."""
    sees = ", ".join(str(layer) for layer in spec.target_layers)
    size, turned = spec.elements() / 1e6, " of a rotated target" if spec.rotated else ""
    what = f"{spec.architecture}: {size:.3g}M weights, drafts {spec.draft_vocab_size} tokens"
    return f"{what} from hidden states {sees}{turned}"


@reported()
def main() -> None:
    """Read the command line and convert."""
    parser = argparse.ArgumentParser(description="Convert an EAGLE head as its authors published it.")
    parser.add_argument("source", metavar="SOURCE", help="folder or hub id")
    parser.add_argument("out", metavar="OUT", type=Path, help="new folder")
    parser.add_argument("--model", required=True, metavar="TARGET", help="the head's target: folder or hub id")
    parser.add_argument("--rotation", metavar="ORIGINAL", help="the model that TARGET is a rotated form of")
    parser.add_argument("--matrix", type=Path, metavar="FILE", help="the rotation matrix, if it is at hand")
    given = parser.parse_args()
    print(describe(convert(given.source, given.out, given.model, given.rotation, given.matrix)))


if __name__ == "__main__":
    main()
