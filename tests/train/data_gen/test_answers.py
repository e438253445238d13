"""A target's own answers: every prompt is asked once, and a stopped run goes on."""

from __future__ import annotations

import json

from specdecodes.train.data_gen import answers
from specdecodes.train.data_gen.answers import AnswerPlan, write_answers
from specdecodes.train.data_gen.conversations import BadRow, read_conversations
from specdecodes.train.data_gen.prompts import prompts


def test_prompts_differ_and_depend_on_the_seed_alone():
    some = prompts(800, seed=1)
    assert len({turns[0] for turns in some}) == 800
    assert some == prompts(800, seed=1) and some != prompts(800, seed=2)
    assert any(len(turns) == 2 for turns in some)


def test_a_stopped_run_answers_what_is_left(tiny_checkpoint, tmp_path, monkeypatch):
    plan = AnswerPlan(tmp_path / "chats.jsonl", str(tiny_checkpoint()), count=7, batch_size=4, max_tokens=5)
    write_answers(plan)
    whole = plan.out.read_text(encoding="utf-8")
    chats = list(read_conversations(str(plan.out)))
    assert len(chats) == 7 and not any(isinstance(chat, BadRow) for chat in chats)
    asked = [json.loads(line)["messages"][0]["content"] for line in whole.splitlines()]
    assert asked == [turns[0] for turns in prompts(7)]
    plan.out.write_text(whole[: whole.index("\n", len(whole) // 2) + 9], encoding="utf-8")  # half a line
    write_answers(plan)
    assert plan.out.read_text(encoding="utf-8") == whole
    monkeypatch.setattr(answers, "load_tokenizer", None)  # nothing is left to ask
    write_answers(plan)
