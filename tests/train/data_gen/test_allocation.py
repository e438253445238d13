"""Features equal Transformers' hidden states, however they are packed, streamed, shared out or interrupted."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from specdecodes.errors import ConfigError
from specdecodes.train.data_gen import allocation
from specdecodes.train.data_gen.allocation import Allocation, default_layers, launched_share, own_answers, run
from specdecodes.train.data_gen.conversations import BadRow, conversation_of, read_conversations
from specdecodes.train.data_gen.shards import Share, StoredConversations

ANSWERS = ("w10 w11 w12 w13 w14", "w20 w21", "w30 w31 w32 w33 w34 w35 w36", "w40 w41 w42")
ROWS = [
    {"messages": [{"role": "user", "content": "w5 w6 w7"}, {"role": "assistant", "content": answer}]}
    for answer in ANSWERS
]


TEMPLATE = (
    "{% for m in messages %}{{ 'w3 ' if m['role'] == 'user' else 'w4 ' }}{{ m['content'] + ' </s> ' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'w4 ' }}{% endif %}"
)


@pytest.fixture(scope="module")
def chatting(tiny_checkpoint, tmp_path_factory):
    """A tiny checkpoint whose template says who speaks."""

    def make(family="llama", **options):
        folder = tmp_path_factory.mktemp("chatting") / family
        shutil.copytree(tiny_checkpoint(family, **options), folder)
        (folder / "chat_template.jinja").write_text(TEMPLATE, encoding="utf-8")
        return folder

    return make


def silent(text: str) -> None:
    pass


@pytest.fixture
def data(tmp_path):
    lines = [*map(json.dumps, ROWS[:2]), "no JSON at all", *map(json.dumps, ROWS[2:]), json.dumps({"messages": []})]
    path = tmp_path / "chats.jsonl"
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def plan_of(folder, data, **fields):
    return Allocation(data=str(data), pack_tokens=40, max_length=30, shard_tokens=12, **{"outdir": folder, **fields})


def stored(folder):
    found = StoredConversations(folder)
    return [found[index] for index in range(len(found))]


def equal(some, others):
    fields = ("tokens", "mask", "inputs", "last")
    return len(some) == len(others) and all(
        torch.equal(vars(one)[name], vars(other)[name])
        for one, other in zip(some, others, strict=True)
        for name in fields
    )


@pytest.mark.parametrize("family", ("llama", "mistral"))
def test_features_are_the_target_s_hidden_states(family, chatting, tmp_path, data):
    folder = chatting(family)
    plan = plan_of(tmp_path / "out", data, target=str(folder), architecture="eagle3", target_layers=(1, 2, 4))
    counts = run(plan, silent)
    assert counts["conversations"] == 4 and counts["skipped, no JSON"] == counts["skipped, no messages"] == 1
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    entering = []  # layer 4 is behind the last: its state is taken before the final norm
    model.model.norm.register_forward_pre_hook(lambda module, given: entering.append(given[0]))
    for found, answer in zip(stored(plan.outdir), ANSWERS, strict=True):
        assert tokenizer.decode(found.tokens[found.mask]) == answer + " </s>"
        with torch.no_grad():
            states = model.model(found.tokens[None], output_hidden_states=True).hidden_states
        expected = torch.cat((states[1], states[2], entering[-1]), dim=-1)[0]
        torch.testing.assert_close(found.inputs, expected, atol=2e-5, rtol=1e-4)
        torch.testing.assert_close(found.last, states[-1][0], atol=2e-5, rtol=1e-4)


def test_a_streamed_target_has_the_same_features(chatting, tmp_path, data):
    folder = chatting("llama", num_hidden_layers=8)
    run(plan_of(tmp_path / "resident", data, target=str(folder)), silent)
    said = []
    run(plan_of(tmp_path / "streamed", data, target=str(folder), device_memory="2800KiB"), said.append)
    assert not any("8 of 8" in line for line in said)
    assert equal(stored(tmp_path / "resident"), stored(tmp_path / "streamed"))


def test_an_interrupted_run_goes_on(chatting, tmp_path, data, monkeypatch):
    plan = plan_of(tmp_path / "whole", data, target=str(chatting()))
    run(plan, silent)
    cut = replace(plan, outdir=tmp_path / "cut")
    run(replace(cut, limit=2), silent)
    files = sorted((tmp_path / "cut").glob("part-*/*.safetensors"))
    made = [path.stat().st_mtime_ns for path in files]
    counts = run(cut, silent)
    assert [path.stat().st_mtime_ns for path in files] == made
    assert equal(stored(plan.outdir), stored(cut.outdir)) and counts["conversations"] == 4
    monkeypatch.setattr(allocation.FeatureReader, "read", None)  # nothing is left to compute
    assert run(cut, silent) == counts


def test_processes_share_the_rows(chatting, tmp_path, data):
    plan = plan_of(tmp_path / "shared", data, target=str(chatting()))
    for index in range(2):
        run(replace(plan, share=Share(index, 2)), silent)
    run(replace(plan, outdir=tmp_path / "alone"), silent)
    both = sorted((found.tokens.tolist() for found in stored(plan.outdir)), key=str)
    assert both == sorted((found.tokens.tolist() for found in stored(tmp_path / "alone")), key=str)


def test_data_of_other_settings_is_refused(chatting, tmp_path, data):
    plan = plan_of(tmp_path / "out", data, target=str(chatting()), limit=1)
    run(plan, silent)
    with pytest.raises(ConfigError, match="max_length was 30 and is 20"):
        run(replace(plan, max_length=20), silent)


def test_a_launcher_s_rank_is_a_share(monkeypatch):
    assert launched_share("1/3")[0] == Share(1, 3)
    assert launched_share(None)[0] == Share(0, 1)
    monkeypatch.setenv("RANK", "2")
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert launched_share(None)[0] == Share(2, 4)
    with pytest.raises(ConfigError, match="0/2"):
        launched_share("2/2")


def test_sharegpt_messages_and_text_are_read(tmp_path):
    chat = [{"from": "gpt", "value": "w1"}, {"from": "human", "value": "w2"}, {"from": "gpt", "value": "w3"}]
    (tmp_path / "a.json").write_text(json.dumps([{"conversations": chat}, {"conversations": chat[:2]}, 7]))
    first, *bad = read_conversations(str(tmp_path / "a.json"))
    assert first == [{"role": "user", "content": "w2"}, {"role": "assistant", "content": "w3"}]
    assert bad == [BadRow("no answer"), BadRow("no object")]
    told = [{"from": "system", "value": "w9"}, *chat]  # what comes before the question is not answered
    assert conversation_of({"conversations": told}) == [{"role": "system", "content": "w9"}, *first]
    assert conversation_of({"messages": [{"from": "USER", "value": "w2"}, {"from": "GPT", "value": "w3"}]}) == first
    (tmp_path / "b.txt").write_text("one\n\ntwo " + "words " * 1200 + "\n\nthree")
    assert [text[:3] for text in read_conversations(str(tmp_path / "b.txt"))] == ["one", "thr"]
    assert conversation_of({"messages": [{"role": "judge", "content": "w"}]}) == BadRow("an unknown role")
    with pytest.raises(ConfigError, match="no file"):
        list(read_conversations(str(tmp_path / "none.json")))


def test_the_published_layers_where_the_target_has_them():
    assert default_layers(32) == (2, 16, 29)
    assert default_layers(6) == (1, 3, 5)


def test_without_data_the_target_answers_first(tmp_path, monkeypatch):
    made = []
    monkeypatch.setattr(allocation, "write_answers", made.append)
    assert own_answers(tmp_path, "org/model", Share()) == str(tmp_path / "chats.jsonl")
    assert (made[0].out, made[0].target) == (tmp_path / "chats.jsonl", "org/model")
    with pytest.raises(ConfigError, match=r"data_gen\.answers --out .*chats\.jsonl --target org/model"):
        own_answers(tmp_path, "org/model", Share(0, 2))
    assert len(made) == 1
