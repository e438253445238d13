"""Conversations in the forms that people have them in: ShareGPT JSON, messages JSONL, plain text; files or the hub."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from specdecodes.errors import ConfigError
from specdecodes.extras import extra

Message = dict[str, str]
Conversation = list[Message] | str
"""Messages of a chat, or a text all of which is the model's to say."""

ROLES = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "chatgpt": "assistant",
    "bing": "assistant",
    "bard": "assistant",
    "system": "system",
}
TEXT_SIZE = 6000  # characters of a plain text that become one conversation


@dataclass(frozen=True)
class BadRow:
    """A row that is no conversation, and why."""

    reason: str


def read_conversations(source: str, split: str = "train") -> Iterator[Conversation | BadRow]:
    """The rows of `source` in order: a .json, .jsonl or .txt file, or the hub id of a dataset (its `split`).

    Raises ConfigError when there is no such source or it cannot be read as a whole; a single bad row is yielded as one.
    """
    path = Path(source).expanduser()
    if path.is_file():
        if path.suffix not in _READERS:
            raise ConfigError(f"{source} is neither {', '.join(_READERS)}; rename it after what it holds.")
        try:
            yield from _READERS[path.suffix](path)
        except (OSError, ValueError) as error:
            raise ConfigError(f"{source} cannot be read: {error}.") from error
    elif re.fullmatch(r"[\w.-]+/[\w.-]+", source) and not source.startswith((".", "assets/")):
        yield from (conversation_of(row) for row in _hub_rows(source, split))
    else:
        raise ConfigError(f"there is no file {source}; give a .json, .jsonl or .txt file, or a hub id of a dataset.")


def conversation_of(row: Any) -> Conversation | BadRow:
    """One parsed row as a conversation.

    `conversations` (from, value) and `messages` (role, content) are chats, either key with either pair of fields;
    `text` is plain text. What an assistant says before any user is dropped: no prompt would bring it about.
    """
    if not isinstance(row, Mapping):
        return BadRow("no object")
    if isinstance(row.get("text"), str) and row["text"].strip():
        return row["text"]
    turns = row.get("messages") or row.get("conversations") or row.get("conversation")
    if not isinstance(turns, list) or not turns:
        return BadRow("no messages")
    messages: list[Message] = []
    asked = False
    for turn in turns:
        if not isinstance(turn, Mapping):
            return BadRow("a turn that is no object")
        role = ROLES.get(str(turn.get("role", turn.get("from"))).lower())
        content = turn.get("content", turn.get("value"))
        if role is None:
            return BadRow("an unknown role")
        if not isinstance(content, str) or not content.strip():
            return BadRow("an empty turn")
        asked = asked or role == "user"
        if asked or role != "assistant":
            messages.append({"role": role, "content": content})
    return messages if any(m["role"] == "assistant" for m in messages) else BadRow("no answer")


def _array(path: Path) -> Iterator[Conversation | BadRow]:
    rows = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(rows, list):
        raise ValueError("it holds no list of conversations")
    yield from map(conversation_of, rows)


def _lines(path: Path) -> Iterator[Conversation | BadRow]:
    with path.open("rb") as file:
        for line in file:
            if line.strip():
                try:
                    yield conversation_of(json.loads(line))
                except ValueError:
                    yield BadRow("no JSON")


def _paragraphs(path: Path) -> Iterator[Conversation | BadRow]:
    """Whole paragraphs of a text, gathered to about TEXT_SIZE characters."""
    gathered: list[str] = []
    for paragraph in re.split(r"\n\s*\n", path.read_text(encoding="utf-8")):
        if paragraph.strip():
            gathered.append(paragraph.strip())
        if sum(map(len, gathered)) >= TEXT_SIZE:
            yield "\n\n".join(gathered)
            gathered = []
    if gathered:
        yield "\n\n".join(gathered)


def _hub_rows(repository: str, split: str) -> Iterable[Any]:
    extra(
        "datasets",
        ConfigError(f'{repository} is read with the package datasets, which is missing: pip install "datasets>=4"'),
    )
    from datasets import load_dataset
    from datasets.exceptions import DatasetsError

    try:
        return load_dataset(repository, split=split)
    except (OSError, ValueError, DatasetsError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"the hub did not give {repository} ({reason}); download its file and pass that.") from error


_READERS: dict[str, Callable[[Path], Iterator[Conversation | BadRow]]] = {
    ".json": _array,
    ".jsonl": _lines,
    ".txt": _paragraphs,
}
