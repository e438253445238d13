"""A conversation: what is remembered, what Ctrl-C and errors leave behind."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import pytest
from rich.console import Console

from specdecodes.cli.run_chat import Chat, _lines
from specdecodes.sampling import SamplingParams


def chat_with(generator: Any, system: str | None = None) -> Chat:
    return Chat(generator, SamplingParams(), Console(file=io.StringIO(), width=100), system)


def screen(chat: Chat) -> str:
    assert isinstance(chat.console.file, io.StringIO)
    return chat.console.file.getvalue()


def test_turns_follow_each_other_on_the_kept_cache(parrot: Callable[..., Any], capsys: pytest.CaptureFixture[str]):
    generator = parrot(["Good day", "Fine"])
    chat = chat_with(generator, system="Be brief.")
    assert chat.turn("Hello\n") and chat.turn("How are you?")
    assert capsys.readouterr().out == "Good day \nFine \n"
    assert generator.asked[1] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "Good day"},
        {"role": "user", "content": "How are you?"},
    ]
    assert generator.reused == [True, True]
    assert "3 of 7 prompt tokens kept" in screen(chat)


def test_an_interrupted_answer_is_kept_as_far_as_it_went(
    parrot: Callable[..., Any], capsys: pytest.CaptureFixture[str]
):
    chat = chat_with(parrot(["one two three", "four"], interrupt=2))
    assert chat.turn("Count")
    assert chat.messages[-1] == {"role": "assistant", "content": "one two "}
    assert chat.answers[-1].finish_reason == "interrupted"
    assert chat.answers[-1].tokens == (0, 1)
    assert "interrupted" in screen(chat)


def test_an_answer_stopped_before_its_first_word_was_never_asked(parrot: Callable[..., Any]):
    chat = chat_with(parrot(["one"], interrupt=0))
    assert chat.turn("Count")
    assert chat.messages == []


def test_a_full_context_is_told_and_the_chat_goes_on(parrot: Callable[..., Any]):
    chat = chat_with(parrot(["overflow", "Yes"]))
    assert chat.turn("a long question")
    assert "the context holds 8" in screen(chat) and "/reset" in screen(chat)
    assert chat.messages == []
    assert chat.turn("short?")
    assert len(chat.messages) == 2


def test_commands(parrot: Callable[..., Any]):
    chat = chat_with(parrot(["Hi"]), system="Be kind.")
    assert chat.turn("/stats") and "Nothing has been answered" in screen(chat)
    assert chat.turn("/stat") and "did you mean '/stats'" in screen(chat)
    assert chat.turn("/help") and "/reset" in screen(chat)
    chat.turn("Hello")
    assert chat.turn("/reset")
    assert chat.messages == [{"role": "system", "content": "Be kind."}]
    assert chat.turn("  \n")
    assert not chat.turn("/exit")


def test_piped_lines_are_shown_with_the_answers(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setattr("sys.stdin", io.StringIO("first\nsecond\n"))
    assert list(_lines()) == ["first\n", "second\n"]
    assert capsys.readouterr().out == "> first\n> second\n"


def test_a_closed_standard_input_is_the_end(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("sys.stdin", None)
    assert list(_lines()) == []
