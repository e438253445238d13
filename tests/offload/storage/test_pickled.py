"""Tensors of files that torch.save wrote, found where they lie."""

import pytest
import torch

from specdecodes.errors import CheckpointError
from specdecodes.offload.storage.pickled import pickled_files, read_pickled
from specdecodes.offload.storage.store import load_tensor

WHOLE = torch.arange(24, dtype=torch.int32).view(4, 6)
TENSORS = {
    "half": torch.randn(3, 5, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16),
    "codes": torch.arange(-64, 64, dtype=torch.int8).view(2, 64),
    "rows": WHOLE[1:3],  # of a larger storage
    "whole": WHOLE,
    "one": torch.tensor(2.5),
}


def test_every_tensor_is_what_torch_loads(tmp_path):
    path = tmp_path / "pytorch_model.bin"
    torch.save(TENSORS | {"note": 3}, path)
    spans = read_pickled(path)
    assert spans.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        found = load_tensor(spans[name])
        assert found.dtype == tensor.dtype and torch.equal(found, tensor)


def test_safetensors_come_first(tmp_path):
    for name in ("pytorch_model-00002-of-00002.bin", "pytorch_model-00001-of-00002.bin", "training_args.bin"):
        (tmp_path / name).touch()
    assert [path.name[14:19] for path in pickled_files(tmp_path)] == ["00001", "00002"]
    (tmp_path / "model.safetensors").touch()
    assert pickled_files(tmp_path) == []


@pytest.mark.parametrize(
    ("held", "words"),
    [
        ({"w": WHOLE.t()}, "w does not lie in one piece"),
        ([WHOLE], "something other than named tensors"),
        ({"w": test_safetensors_come_first}, "could not be read as tensors and nothing else"),
    ],
)
def test_what_cannot_be_read_in_place_is_said(held, words, tmp_path):
    torch.save(held, tmp_path / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=words):
        read_pickled(tmp_path / "pytorch_model.bin")


def test_old_and_cut_files_are_said(tmp_path):
    path = tmp_path / "pytorch_model.bin"
    torch.save(TENSORS, path, _use_new_zipfile_serialization=False)
    with pytest.raises(CheckpointError, match="does not lie in one piece|could not be read"):
        read_pickled(path)
    torch.save(TENSORS, path)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(CheckpointError, match="could not be read as tensors"):
        read_pickled(path)
