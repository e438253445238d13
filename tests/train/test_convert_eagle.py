"""A published head becomes a folder that is read in place, by either command."""

from __future__ import annotations

import sys

import pytest
import torch
from typer.testing import CliRunner

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
