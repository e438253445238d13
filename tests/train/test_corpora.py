"""Corpora become chats that end, and held-out documents stay out."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from specdecodes.errors import ConfigError
from specdecodes.train.corpora import SOURCES, Text, epoch, read_corpora, split_held_out


@pytest.fixture
def corpora(tmp_path: Path) -> Path:
    for name in SOURCES:
        (tmp_path / name).mkdir()
    story = "Once there was a Fox.\nIt said “come”.\n\n" + "The Fox ran to the river and back again. " * 40
    (tmp_path / "childrens-books/Book.md").write_text(
        f"# Title: Book\n-------\n## THE FOX'S DAY\n{story}\n## Chapter 2\nThe _end_.\n"
    )
    (tmp_path / "childrens-books/SOURCE.md").write_text("## not a chapter\nnor a story\n")
    for name, title in (("fairytaleqa-stories", "the-three-bears"), ("african-storybook", "A very tall man")):
        (tmp_path / name / "stories.jsonl").write_text(json.dumps({"title": title, "text": story}) + "\n")
    (tmp_path / "tinyshakespeare/input.txt").write_text("First Citizen:\nSpeak.\n\nAll:\nSpeak, speak.\n")
    row = {"instruction": "Add two numbers.", "input": "1, 2", "response": "print(1 + 2)"}
    (tmp_path / "gpteacher/code.json").write_text(json.dumps([row, row | {"response": ""}]))
    answer = "She has 2+3 = <<2+3=5>>5 eggs.\n#### 5"
    (tmp_path / "gsm8k-train/train.jsonl").write_text(json.dumps({"question": "How many?", "answer": answer}) + "\n")
    return tmp_path


def by_source(texts: list[Text], source: str) -> list[Text]:
    return [text for text in texts if text.source == source]


def test_documents_are_cleaned(corpora: Path) -> None:
    texts = read_corpora(corpora)
    first, second = by_source(texts, "childrens-books")
    assert first.title == "The Fox's Day"
    assert first.parts[0].startswith('Once there was a Fox. It said "come".\n\nThe Fox ran')
    assert second == Text("childrens-books", "", ("The end.",))
    assert by_source(texts, "gpteacher") == [Text("gpteacher", "", ("Add two numbers.\n\n1, 2", "print(1 + 2)"))]
    assert by_source(texts, "gsm8k-train")[0].parts == ("How many?", "She has 2+3 = 5 eggs.\nThe answer is 5.")


def test_a_missing_corpus_is_named(corpora: Path) -> None:
    (corpora / "gpteacher/code.json").unlink()
    (corpora / "gpteacher").rmdir()
    with pytest.raises(ConfigError, match="lacks the corpora gpteacher;"):
        read_corpora(corpora)


def test_chats_alternate_and_end_with_an_answer(corpora: Path) -> None:
    texts = read_corpora(corpora) * 20
    chats = [document for document in epoch(texts, random.Random(0)) if isinstance(document, list)]
    assert len(chats) > 50
    for chat in chats:
        roles = [message["role"] for message in chat if message["role"] != "system"]
        assert roles == ["user", "assistant"] * (len(roles) // 2)
        assert all(message["content"] for message in chat)
    assert any(len(chat) > 3 for chat in chats), "no chat has a second turn"


def test_an_epoch_repeats_with_its_seed_and_not_without(corpora: Path) -> None:
    texts = read_corpora(corpora) * 5
    one, same, other = (list(epoch(texts, random.Random(seed))) for seed in (1, 1, 2))
    assert one == same
    assert one != other


def test_every_source_is_held_out_and_nothing_is_in_both() -> None:
    texts = [Text(source, str(i), ("text",)) for source in SOURCES for i in range(80)]
    kept, held = split_held_out(texts)
    assert len(kept) + len(held) == len(texts)
    assert not set(kept) & set(held)
    assert {text.source for text in held} == set(SOURCES)
    assert len(held) == 2 * len(SOURCES)
