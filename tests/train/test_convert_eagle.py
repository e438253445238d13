"""A published head becomes a folder that is read in place, by either command."""

from __future__ import annotations

import sys

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from benchmarks import rotate_demo
from benchmarks.rotate_demo import MATRIX
from specdecodes.cli.app import app
from specdecodes.errors import CheckpointError
from specdecodes.models.eagle_files import open_head
from specdecodes.models.loading import read_spec
from specdecodes.train import convert_eagle
from tests.models.test_eagle_files import LAYOUTS, published


@pytest.fixture(scope="module")
def target(tiny_checkpoint):
    return tiny_checkpoint("llama", num_hidden_layers=8)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_is_converted(layout, target, tmp_path):
    source, tensors, spec = published(tmp_path / "source", target, layout)
    assert convert_eagle.convert(str(source), tmp_path / "out", str(target)) == spec
    head = open_head(str(tmp_path / "out"), read_spec(str(target)))
    loaded = head.load()
    assert not head.published and head.spec == spec and loaded.keys() == spec.tensors().keys()
    assert all(torch.equal(loaded[name], tensors[name]) for name in tensors if name not in ("d2t", "t2d"))
    with pytest.raises(CheckpointError, match="is not empty"):
        convert_eagle.convert(str(source), tmp_path / "out", str(target))
    with pytest.raises(CheckpointError, match="converted already"):
        convert_eagle.convert(str(tmp_path / "out"), tmp_path / "again", str(target))


def test_a_rotated_target(target, tmp_path):
    """Its matrix told by the embeddings and by a file; a head of either layout, once."""
    rotated, layout = tmp_path / "rotated", "yuhuili/EAGLE-LLaMA3.1-Instruct-8B"
    rotate_demo.main(target, rotated)
    source, tensors, _ = published(tmp_path / "source", target, layout)
    convert_eagle.convert(str(source), tmp_path / "own", str(target))
    common = ["--model", str(rotated), "--rotation", str(target)]
    for command in (
        ["run-convert-eagle", str(source), str(tmp_path / "one"), *common],
        ["run-convert-eagle", str(tmp_path / "own"), str(tmp_path / "two"), *common, "--matrix", str(rotated / MATRIX)],
    ):
        done = CliRunner().invoke(app, command, catch_exceptions=False)
        assert done.exit_code == 0 and "of a rotated target" in done.output
    one, two = (open_head(str(tmp_path / name), read_spec(str(rotated))) for name in ("one", "two"))
    loaded, again = one.load(), two.load()
    assert one.spec.rotated and loaded.keys() == one.spec.tensors().keys()
    assert all(torch.allclose(loaded[name], again[name], atol=1e-6) for name in loaded)
    assert all(torch.equal(loaded[name], tensor) for name, tensor in tensors.items())
    kept = load_file(target / "model.safetensors")
    assert torch.equal(loaded["embed_tokens.weight"], kept["model.embed_tokens.weight"])
    assert torch.equal(loaded["lm_head.weight"], kept["lm_head.weight"])
    with pytest.raises(CheckpointError, match="for a rotated target already"):
        convert_eagle.convert(str(tmp_path / "one"), tmp_path / "three", str(rotated), str(target))
    with pytest.raises(CheckpointError, match="of use with --rotation"):
        convert_eagle.convert(str(source), tmp_path / "three", str(rotated), matrix=rotated / MATRIX)


def test_both_commands(target, tmp_path, monkeypatch, capsys):
    source, _, _ = published(tmp_path / "source", target, "yuhuili/EAGLE3-LLaMA3.1-Instruct-8B")
    arguments = ["run-convert-eagle", str(source), str(tmp_path / "one"), "--model", str(target)]
    done = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert done.exit_code == 0 and "eagle3: 0.0" in done.output and "hidden states 2, 4, 5" in done.output
    monkeypatch.setattr(sys, "argv", ["convert_eagle", str(source), str(tmp_path / "two"), "--model", str(target)])
    convert_eagle.main()
    assert "drafts 61 tokens" in capsys.readouterr().out
    for file in ("config.json", "model.safetensors"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()
    with pytest.raises(SystemExit) as left:
        convert_eagle.main()
    assert left.value.code == 2 and "is not empty" in capsys.readouterr().err
