"""Makes a head folder of an EAGLE head as its authors published it.

    python -m specdecodes.train.convert_eagle SOURCE OUT --model TARGET

SOURCE is a folder or hub id in the layout of yuhuili/EAGLE-*, yuhuili/EAGLE3-* or heads trained with the same code,
such as leptonai/EAGLE-Qwen2.5-7B-Instruct: a config.json beside pytorch_model.bin or model.safetensors. `eagle_sd` also
takes such a source as it is; a converted one is checked once and read in place.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from specdecodes.errors import CheckpointError, SpecDecodesError, fail
from specdecodes.models.eagle import EagleSpec
from specdecodes.models.eagle_files import open_head, save_head
from specdecodes.models.loading import read_spec


def convert(source: str, out: Path, model: str) -> EagleSpec:
    """Write the head `source` to the folder `out`, checked against the config of its target `model`.

    Raises CheckpointError naming the first tensor or field that is missing, unknown or misshapen.
    """
    target = read_spec(model)
    head = open_head(source, target)
    if not head.published:
        raise CheckpointError(f"{source} is converted already: eagle_sd takes it as it is.")
    if out.exists() and any(out.iterdir()):
        raise CheckpointError(f"{out} is not empty; give a new folder.")
    return save_head(out, head.fields, head.load(), target)


def describe(spec: EagleSpec) -> str:
    """What a head is, in a few words."""
    sees = ", ".join(str(layer) for layer in spec.target_layers)
    size = spec.elements() / 1e6
    return f"{spec.architecture}: {size:.3g}M weights, drafts {spec.draft_vocab_size} tokens from hidden states {sees}"


def main() -> None:
    """Read the command line and convert."""
    parser = argparse.ArgumentParser(description="Convert an EAGLE head as its authors published it.")
    parser.add_argument("source", metavar="SOURCE", help="folder or hub id")
    parser.add_argument("out", metavar="OUT", type=Path, help="new folder")
    parser.add_argument("--model", required=True, metavar="TARGET", help="the head's target: folder or hub id")
    given = parser.parse_args()
    try:
        print(describe(convert(given.source, given.out, given.model)))
    except SpecDecodesError as error:
        fail(error)


if __name__ == "__main__":
    main()
