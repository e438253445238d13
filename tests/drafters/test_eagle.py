"""What a head is given is what the target said, whatever was accepted, kept or cut into chunks before."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F
from transformers import AutoModelForCausalLM, PreTrainedModel

from specdecodes.config import Draft, Memory, Pipeline
from specdecodes.drafters.eagle import EagleDrafter
from specdecodes.drafters.pacing.pace import Pace
from specdecodes.methods import build
from specdecodes.models.eagle_files import open_head, save_head
from specdecodes.models.loading import open_checkpoint
from tests.heads import REDUCED, write_head
from tests.models.test_eagle import Plain, load
from tests.test_lossless import GREEDY, PROMPTS, SAMPLED, pipeline_for, smallest_budget

TAPPED = (1, 2, 3)


def pipeline_of(target: Path, head: Path, *, exact: bool = False) -> Pipeline:
    pipeline = pipeline_for("eagle_sd", target, target, exact=exact)
    return replace(pipeline, draft=Draft(str(head), temperature=1.0))


@torch.no_grad()
def states_of(model: PreTrainedModel, text: list[int], kind: str) -> Tensor:
    """The target's hidden states of `text` by Transformers: the last one (after its norm, as EAGLE was trained), or
    those that enter the tapped layers."""
    states = model(torch.tensor([text]), output_hidden_states=True).hidden_states
    return states[-1][0] if kind == "eagle" else torch.cat([states[layer][0] for layer in TAPPED], -1)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["eagle", "eagle3"])
def test_every_proposal_starts_from_the_target_s_own_features(kind, tiny_checkpoint, tmp_path, monkeypatch):
    """Against the head's forward in plain torch on Transformers' hidden states: a prompt of two chunks, rounds that
    accept some, rounds that draft nothing, and a second turn on the kept cache."""
    target = tiny_checkpoint("llama")
    more = {"target_layers": list(TAPPED)} if kind == "eagle3" else {}
    folder = write_head(tmp_path / "head", target, kind, **more)
    decoder, head, tensors = load(target, folder)
    plain, trees = Plain(head, decoder, tensors, head.spec.norm_eps), []
    propose, turns = EagleDrafter.propose, itertools.count(1)
    monkeypatch.setattr(Pace, "drafts", property(lambda self: next(turns) % 3 > 0))
    monkeypatch.setattr(EagleDrafter, "propose", lambda self, root: trees.append(propose(self, root)) or trees[-1])
    with build(pipeline_of(target, folder), progress=lambda text: None) as generator:
        first = generator.generate(PROMPTS[1], replace(GREEDY, max_tokens=12))
        again = (*PROMPTS[1], *first.tokens, 8, 9)
        second = generator.generate(again, replace(GREEDY, max_tokens=6), reuse_cache=True)
    assert second.cached_tokens == len(again) - 3
    texts = []
    for prompt, generation in ((PROMPTS[1], first), (again, second)):
        text = [*prompt, generation.tokens[0]]
        for round_ in generation.rounds:
            texts.append(list(text))
            text += round_.tokens
    assert len(trees) == len(texts) > 6 and {tree.size > 1 for tree in trees} == {True, False}
    reference = AutoModelForCausalLM.from_pretrained(target, dtype=torch.float32)
    for tree, text in zip(trees, texts, strict=True):
        states = states_of(reference, text[:-1], kind)
        hidden = plain.hidden(torch.tensor(text[1:]), plain.entry(states) if kind == "eagle3" else states)
        first_level = tree.depths[: tree.size] == 1
        wanted = F.log_softmax(plain.logits(hidden[-1:])[0], -1).topk(int(first_level.sum()))
        found = dict(
            zip(
                tree.tokens[: tree.size][first_level].tolist(),
                tree.scores[: tree.size][first_level].tolist(),
                strict=True,
            )
        )
        assert int(tree.tokens[0]) == text[-1]
        assert found == pytest.approx(dict(zip(wanted.indices.tolist(), wanted.values.tolist(), strict=True)), abs=1e-3)


def chain_target(folder: Path, source: Path) -> Path:
    """A target whose layers add nothing: the next token depends on the last one alone."""
    folder.mkdir()
    for file in source.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    tensors = load_file(folder / "model.safetensors")
    for name, tensor in tensors.items():
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            tensor.zero_()
    table = tensors["model.embed_tokens.weight"]
    table /= table.pow(2).mean(-1, keepdim=True).sqrt()  # so that the norm only multiplies
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.mark.parametrize("params", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
def test_a_head_that_knows_the_target_is_accepted_whole(params, tiny_checkpoint, tmp_path):
    """Streamed and exact, bit for bit plain decoding, with a head made by hand that predicts such a target's token."""
    target = chain_target(tmp_path / "target", tiny_checkpoint("llama"))
    norm = load_file(target / "model.safetensors")["model.norm.weight"]

    def knowing(tensors: dict[str, Tensor]) -> None:
        tensors["fusion.weight"] = torch.cat((norm.diag(), torch.zeros(64, 64)), 1)
        tensors["layers.0.self_attn.o_proj.weight"].zero_()
        tensors["layers.0.mlp.down_proj.weight"].zero_()

    folder = write_head(tmp_path / "head", target, "eagle", knowing)
    answers = []
    for pipeline in (
        pipeline_of(target, folder, exact=True),
        pipeline_for("vanilla", target, None, exact=True),
    ):
        roomy = replace(pipeline, tree=replace(pipeline.tree, nodes=48))  # all that five levels of three can propose
        if pipeline.method == "eagle_sd":
            roomy = replace(roomy, memory=Memory(smallest_budget(roomy)))
        with build(roomy, progress=lambda text: None) as generator:
            logits: list[Tensor] = []
            answers.append((generator.generate(PROMPTS[1], params, on_logits=logits.append), torch.cat(logits)))
    (drafted, ours), (plainly, theirs) = answers
    assert drafted.tokens == plainly.tokens and torch.equal(ours, theirs)
    assert drafted.tau > 4, "of five levels; a beam of three may lose the best path"


@torch.no_grad()
def test_a_reduced_vocabulary_leads_to_the_target_s_tokens(tiny_checkpoint, tmp_path):
    """The head of an EAGLE-3 is solved for one answer of the target: then it is right from every committed token."""
    target = tiny_checkpoint("llama")
    with build(pipeline_for("vanilla", target, None, exact=True), progress=lambda text: None) as generator:
        answer = generator.generate(PROMPTS[0], replace(GREEDY, max_tokens=40)).tokens
    folder = write_head(tmp_path / "random", target, "eagle3", target_layers=list(TAPPED))
    decoder, head, tensors = load(target, folder)
    plain = Plain(head, decoder, tensors, head.spec.norm_eps)
    text = [*PROMPTS[0], *answer]
    reference = AutoModelForCausalLM.from_pretrained(target, dtype=torch.float32)
    states = states_of(reference, text[:-2], "eagle3")
    hidden = plain.norm(plain.hidden(torch.tensor(text[1:-1]), plain.entry(states)), tensors["norm.weight"])
    used = set(text[2:])
    known = torch.tensor(sorted([*used, *[token for token in range(96, 0, -1) if token not in used]][:REDUCED]))
    tensors["d2t"] = known - torch.arange(REDUCED)
    tensors["t2d"] = torch.zeros(97, dtype=torch.bool).index_fill(0, known, True)
    places = {token: place for place, token in enumerate(known.tolist())}
    goal = F.one_hot(torch.tensor([places[token] for token in text[2:]]), REDUCED).float() * 9
    tensors["lm_head.weight"] = torch.linalg.lstsq(hidden, goal).solution.T
    spec = open_checkpoint(str(target)).spec
    save_head(tmp_path / "head", open_head(str(folder), spec).fields, tensors, spec)
    with build(pipeline_of(target, tmp_path / "head"), progress=lambda text: None) as generator:
        generation = generator.generate(PROMPTS[0], replace(GREEDY, max_tokens=40))
    assert generation.tokens == answer
    assert all(round_.accepted >= 1 for round_ in generation.rounds[:-1])
