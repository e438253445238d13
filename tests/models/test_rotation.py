"""A rotated model says what the original says, and a head converted for it drafts what it drafted before."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from benchmarks import rotate_demo
from specdecodes.config import Draft, Memory
from specdecodes.drafters.eagle import EagleDrafter
from specdecodes.errors import CheckpointError
from specdecodes.methods import build
from specdecodes.models.loading import open_checkpoint
from specdecodes.models.rotation import find_rotation
from specdecodes.train.convert_eagle import convert
from tests.heads import write_head
from tests.test_lossless import GREEDY, PROMPTS, SAMPLED, pipeline_for, smallest_budget

SHORT = [replace(params, max_tokens=12) for params in (GREEDY, SAMPLED)]
TAPPED = {"target_layers": [1, 2, 3]}

pytestmark = pytest.mark.usefixtures("untimed")


@pytest.fixture(scope="module")
def pair(tiny_checkpoint, tmp_path_factory) -> Callable[..., tuple[Path, Path]]:
    """A tiny model and its rotated form."""
    made: dict[str, tuple[Path, Path]] = {}

    def make(family: str = "llama", **options: Any) -> tuple[Path, Path]:
        if (key := repr((family, options))) not in made:
            source, out = tiny_checkpoint(family, **options), tmp_path_factory.mktemp("rotated")
            rotate_demo.main(source, out)
            made[key] = (source, out)
        return made[key]

    return make


def said(folder: Path, head: Path | None = None, streamed: bool = False) -> tuple[Any, Tensor]:
    """Tokens, greedy and sampled, and the target's logits."""
    pipeline = pipeline_for("vanilla" if head is None else "eagle_sd", folder, folder, exact=True)
    if head is not None:
        pipeline = replace(pipeline, draft=Draft(str(head), temperature=1.0))
    if streamed:
        pipeline = replace(pipeline, memory=Memory(smallest_budget(pipeline)))
    logits: list[Tensor] = []
    with build(pipeline, progress=lambda text: None) as generator:
        assert bool(generator.placement.streamed) == streamed
        tokens = [generator.generate(PROMPTS[1], params, on_logits=logits.append).tokens for params in SHORT]
    return tokens, torch.cat(logits)


@pytest.mark.parametrize("family", ["llama", "llama3", "qwen2", "qwen3"])
def test_a_rotated_model_is_loaded_as_it_is_and_says_the_same(family, pair):
    """With biases, with norms of queries and keys, and tied before: fp32, so that rounding hides nothing."""
    source, rotated = pair(family)
    tokens, logits = said(source)
    again, turned = said(rotated)
    assert again == tokens and len({*tokens[0], *tokens[1]}) > 5
    assert torch.allclose(turned, logits, atol=1e-4 * float(logits.abs().max()))
    tensors = load_file(rotated / "model.safetensors")
    assert bool((tensors["model.norm.weight"] == 1).all())
    assert not torch.equal(tensors["lm_head.weight"], tensors["model.embed_tokens.weight"])


def test_a_head_of_its_own_is_taken_whatever_the_config_says(pair, tmp_path):
    """The makers of a rotated form of a tied model may have left `tie_word_embeddings` as it was."""
    source, rotated = pair("qwen2")
    folder = copied(rotated, tmp_path / "tied")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": True}))
    assert not open_checkpoint(str(folder)).spec.tied and open_checkpoint(str(source)).spec.tied
    tensors = load_file(folder / "model.safetensors")
    repeated = tensors | {"lm_head.weight": tensors["model.embed_tokens.weight"].clone()}
    save_file(repeated, folder / "model.safetensors", {"format": "pt"})
    assert open_checkpoint(str(folder)).spec.tied


@pytest.mark.parametrize("dtype", ["fp32", "bf16", "fp16"])
def test_a_hadamard_matrix_is_recovered_to_the_last_bit(dtype, pair):
    source, rotated = (open_checkpoint(str(folder)) for folder in pair(dtype=dtype))
    wanted = load_file(rotated.folder / rotate_demo.MATRIX)["rotation"]
    assert torch.equal(find_rotation(source, rotated).sign(), wanted.sign())
    assert torch.allclose(find_rotation(source, rotated), wanted, atol=1e-12)


def test_any_other_rotation_is_recovered_as_far_as_rounding_lets(pair):
    source, rotated = (open_checkpoint(str(folder)) for folder in pair(hidden_size=96, num_attention_heads=6))
    wanted = load_file(rotated.folder / rotate_demo.MATRIX)["rotation"]
    found = find_rotation(source, rotated)
    assert torch.allclose(found, wanted, atol=1e-4) and not torch.equal(found, wanted)
    assert torch.allclose(found.T @ found, torch.eye(96, dtype=torch.float64), atol=1e-12)


def test_an_embedding_may_have_lost_its_rows_means(pair, tiny_checkpoint, tmp_path):
    """As with QuaRot's own code, whose embedding says nothing about one direction: the head does."""
    source = tiny_checkpoint("llama")
    centred = copied(source, tmp_path / "centred")
    changed("model.embed_tokens.weight", lambda table: table - table.mean(-1, keepdim=True))(centred)
    rotate_demo.main(centred, tmp_path / "rotated")
    wanted = load_file(tmp_path / "rotated" / rotate_demo.MATRIX)["rotation"]
    found = find_rotation(open_checkpoint(str(source)), open_checkpoint(str(tmp_path / "rotated")))
    assert torch.allclose(found, wanted, atol=1e-12)


@pytest.mark.parametrize("kind", ["eagle", "eagle3"])
def test_a_converted_head_proposes_the_same_trees(kind, pair, tmp_path, monkeypatch):
    """Through the generator, resident and streamed, greedy and sampled; what is said is plain decoding's."""
    source, rotated = pair("llama")
    head = write_head(tmp_path / "head", source, kind, **(TAPPED if kind == "eagle3" else {}))
    spec = convert(str(head), tmp_path / "converted", str(rotated), str(source))
    assert spec.rotated
    trees: list[Any] = []
    propose = EagleDrafter.propose
    monkeypatch.setattr(EagleDrafter, "propose", lambda self, root: trees.append(propose(self, root)) or trees[-1])

    def drafted(folder: Path, head: Path, streamed: bool = False) -> tuple[Any, list[Any]]:
        trees.clear()
        return said(folder, head, streamed)[0], list(trees)

    tokens, wanted = drafted(source, head)
    assert tokens == said(rotated)[0] and max(tree.size for tree in wanted) == 12
    for streamed in (False, True):
        again, found = drafted(rotated, tmp_path / "converted", streamed)
        assert again == tokens
        for ours, theirs in zip(found, wanted, strict=True):
            assert torch.equal(ours.tokens, theirs.tokens) and torch.equal(ours.parents, theirs.parents)
            assert torch.allclose(ours.scores[: ours.size], theirs.scores[: ours.size], atol=1e-3)
    _, found = drafted(rotated, head)
    assert not torch.equal(found[0].tokens, wanted[0].tokens), "nothing was there to convert"


def copied(source: Path, folder: Path) -> Path:
    folder.mkdir()
    for file in source.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


def changed(name: str, change: Callable[[Tensor], Tensor]) -> Callable[[Path], None]:
    """A change to one tensor of a checkpoint."""

    def apply(folder: Path) -> None:
        tensors = load_file(folder / "model.safetensors")
        tensors[name] = change(tensors[name]).contiguous()
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})

    return apply


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (changed("model.embed_tokens.weight", torch.rand_like), "no rotation leads from the embedding of .* is left"),
        (changed("model.norm.weight", lambda norm: 2 * norm), "does not lead from head to head"),
        (changed("lm_head.weight", lambda head: 1 + head), "does not lead from head to head|no rotation leads"),
    ],
)
def test_a_model_that_is_no_rotated_form_is_refused(change, words, pair, tmp_path):
    source, rotated = pair("llama")
    folder = copied(rotated, tmp_path / "other")
    change(folder)
    with pytest.raises(CheckpointError, match=words):
        find_rotation(open_checkpoint(str(source)), open_checkpoint(str(folder)))


def test_a_model_of_another_shape_is_refused(pair, tiny_checkpoint):
    source, _ = pair("llama")
    other = open_checkpoint(str(tiny_checkpoint("llama", num_hidden_layers=8)))
    with pytest.raises(CheckpointError, match="layers is 8 and not 4"):
        find_rotation(open_checkpoint(str(source)), other)


@pytest.mark.parametrize(
    ("matrix", "words"),
    [
        (torch.eye(64, dtype=torch.float64), "does not lead from the embedding"),
        (2 * torch.eye(64), "is not orthogonal: .* off by 3"),
        (torch.eye(32), r"holds a matrix \[32, 32\]; the hidden size is 64"),
        (torch.ones(64), "does not hold one matrix"),
        ({"one": torch.eye(64), "two": torch.eye(64)}, "does not hold one matrix"),
        (Path("a class"), "tensors and nothing else"),
    ],
)
def test_a_matrix_that_does_not_fit_is_refused(matrix, words, pair, tmp_path):
    source, rotated = (open_checkpoint(str(folder)) for folder in pair("llama"))
    torch.save(matrix, tmp_path / "rotation.pth")
    with pytest.raises(CheckpointError, match=words):
        find_rotation(source, rotated, tmp_path / "rotation.pth")


def test_a_file_says_what_the_embeddings_say(pair, tmp_path):
    source, rotated = (open_checkpoint(str(folder)) for folder in pair("llama"))
    held = rotated.folder / rotate_demo.MATRIX
    torch.save(load_file(held)["rotation"], tmp_path / "rotation.pth")
    recovered = find_rotation(source, rotated)
    for file in (held, tmp_path / "rotation.pth"):
        assert torch.allclose(find_rotation(source, rotated, file), recovered, atol=1e-12)
