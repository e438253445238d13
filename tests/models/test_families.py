"""Every family equals Transformers; what no family describes is refused by name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from specdecodes.cache import CacheShape, KVCache
from specdecodes.engine.compile import eager_steps
from specdecodes.engine.layers import ResidentLayers
from specdecodes.engine.runner import ModelRunner
from specdecodes.errors import CheckpointError, UnsupportedModelError
from specdecodes.models.decoder import Decoder
from specdecodes.models.loading import load_layers, load_outer, open_checkpoint
from specdecodes.tree import TokenTree
from tests.conftest import FAMILY_OPTIONS, LLAMA3_ROPE

REAL = Path(__file__).parents[3] / "shared" / "data" / "models"


def runner_for(
    folder: Path, dtype: torch.dtype, *, width: int = 8, exact: bool = False, max_length: int = 256
) -> ModelRunner:
    checkpoint = open_checkpoint(str(folder))
    spec, device = checkpoint.spec, torch.device("cpu")
    decoder = Decoder(spec, dtype)
    load_outer(decoder, checkpoint, device)
    load_layers(decoder, checkpoint, range(spec.layers), device)
    shape = CacheShape(spec.layers, spec.kv_heads, spec.head_dim, max_length, target_nodes=16)
    cache = KVCache(shape, dtype)
    layers = ResidentLayers(list(decoder.layers))
    return ModelRunner(decoder, layers, cache, eager_steps(), width=width, chunk=16, exact=exact)


@torch.no_grad()
@pytest.mark.parametrize("family", FAMILY_OPTIONS)
@pytest.mark.parametrize("exact", [False, True])
def test_logits_equal_transformers(family, exact, tiny_checkpoint):
    from transformers import AutoModelForCausalLM

    folder = tiny_checkpoint(family)
    reference = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokens = torch.randint(3, 97, (45,), generator=torch.Generator().manual_seed(1))
    wanted = reference(tokens[None]).logits[0]
    runner = runner_for(folder, torch.float32, exact=exact)
    got = [runner.prefill(tokens[:37]).logits[0]]
    for token in tokens[37:]:
        got.append(runner.score(TokenTree.rooted(token, 8)).logits[0])
        runner.cache.keep(torch.tensor([0]))
    assert (torch.stack(got) - wanted[36:]).abs().max() < 1e-4


@torch.no_grad()
@pytest.mark.parametrize("name", ["stories260K-hf", "babyllama-105-hf"])
def test_greedy_text_of_real_checkpoints(name):
    """200 greedy tokens, token for token, on real weights."""
    from transformers import AutoModelForCausalLM

    folder = REAL / name
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there: the real checkpoints are kept outside the project")
    reference = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    prompt = torch.tensor([1])
    wanted = reference.generate(
        prompt[None],
        attention_mask=torch.ones(1, 1),
        do_sample=False,
        max_new_tokens=200,
        min_new_tokens=200,
        pad_token_id=0,
    )[0, 1:].tolist()
    runner = runner_for(folder, torch.float32, width=1)
    token = runner.prefill(prompt).logits.argmax(-1)
    got = [int(token)]
    while len(got) < 200:
        token = runner.score(TokenTree.rooted(token, 1)).logits.argmax(-1)
        runner.cache.keep(torch.tensor([0]))
        got.append(int(token))
    assert got == wanted


def edited(folder: Path, target: Path, **fields: object) -> Path:
    """A copy of a checkpoint with some fields of its config changed."""
    target.mkdir()
    for file in folder.iterdir():
        (target / file.name).write_bytes(file.read_bytes())
    config = json.loads((folder / "config.json").read_text())
    (target / "config.json").write_text(json.dumps(config | fields))
    return target


def test_unsupported_architecture_is_named(tiny_checkpoint, tmp_path):
    folder = edited(tiny_checkpoint(), tmp_path / "x", architectures=["FalconForCausalLM"])
    with pytest.raises(UnsupportedModelError, match="FalconForCausalLM.*LlamaForCausalLM.*Qwen3ForCausalLM"):
        open_checkpoint(str(folder))


@pytest.mark.parametrize(
    ("rope", "positions"),
    [
        ({"rope_type": "default"}, 2048),
        ({"rope_type": "linear", "factor": 4.0}, 8192),
        ({"rope_type": "yarn", "factor": 16.0, "original_max_position_embeddings": 512}, 8192),
        ({"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 512}, 2048),  # as configured
        ({**LLAMA3_ROPE, "factor": 99.0}, 2048),
    ],
)
def test_positions_count_rope_scaling(rope, positions, tiny_checkpoint, tmp_path):
    folder = edited(tiny_checkpoint(), tmp_path / "x", rope_parameters={"rope_theta": 1e4, **rope})
    assert open_checkpoint(str(folder)).spec.max_positions == positions


def test_unsupported_rope_is_named(tiny_checkpoint, tmp_path):
    rope = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}
    folder = edited(tiny_checkpoint(), tmp_path / "x", rope_parameters=rope)
    with pytest.raises(UnsupportedModelError, match="dynamic.*llama3"):
        open_checkpoint(str(folder))


def test_shapes_are_checked_before_loading(tiny_checkpoint, tmp_path):
    folder = edited(tiny_checkpoint(), tmp_path / "x", intermediate_size=192)
    with pytest.raises(CheckpointError, match="gate_proj.*128.*192"):
        open_checkpoint(str(folder))
    folder = edited(tiny_checkpoint(), tmp_path / "y", num_hidden_layers=5)
    with pytest.raises(CheckpointError, match=r"lacks the tensor model\.layers\.4"):
        open_checkpoint(str(folder))


def test_a_broken_generation_config_is_named(tiny_checkpoint, tmp_path):
    folder = edited(tiny_checkpoint(), tmp_path / "x")
    (folder / "generation_config.json").write_text('{"eos')
    with pytest.raises(CheckpointError, match="generation_config.json in .* could not be read.*remove it"):
        open_checkpoint(str(folder))


def test_wrong_path_names_the_cure(tmp_path):
    with pytest.raises(CheckpointError, match="no folder .*hub id"):
        open_checkpoint(str(tmp_path / "nowhere"))
    with pytest.raises(CheckpointError, match="no config.json"):
        open_checkpoint(str(tmp_path))
