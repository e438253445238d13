"""Permissively licensed corpora, read from a folder and told as chats.

Expected under the folder: `childrens-books/*.md`, `fairytaleqa-stories/*.jsonl` and `african-storybook/*.jsonl` (fields
`title`, `text`), `tinyshakespeare/input.txt`, `gpteacher/*.json` (`instruction`, `input`, `response`),
`gsm8k-train/*.jsonl` (`question`, `answer`).
"""

import json
import random
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from specdecodes.errors import ConfigError

Message = dict[str, str]

SOURCES = ("childrens-books", "fairytaleqa-stories", "african-storybook", "tinyshakespeare", "gpteacher", "gsm8k-train")
HELD_OUT = 40  # one document of so many
PASSAGE = 900  # characters
# How often an epoch passes over each source: answers to questions matter most, old plays least.
WEIGHTS = {
    "childrens-books": 0.7,
    "fairytaleqa-stories": 1.0,
    "african-storybook": 1.5,
    "tinyshakespeare": 0.25,
    "gpteacher": 1.5,
    "gsm8k-train": 1.0,
}
SYSTEM_PROMPTS = (
    "You are a helpful assistant.",
    "You are a friendly storyteller who answers every question.",
    "Answer the user's questions clearly and politely.",
)
ASK_TOPIC = (
    "Tell me a story about {}.",
    "Write a short story about {}.",
    "Can you tell me about {}?",
    "Please write a passage about {}.",
    "Write a few paragraphs about {}.",
    "Describe a scene with {}.",
    "I would like to hear a tale about {}.",
)
ASK_TITLE = ("Tell me the story of {}.", "Do you know the tale of {}?", 'Write a story called "{}".', "Tell me {}.")
ASK_OPENING = (
    "Write a short story beginning with the sentence: {}",
    "Continue this story: {}",
    "What happens next? {}",
    "Finish the following text.\n\n{}",
)
ASK_MORE = ("Continue the story.", "What happened then?", "Go on, please.", "Tell me more.", "And then?")
ASK_SHORT = ("Say that in one sentence.", "Make your previous response shorter.", "Give me only the first sentence.")
ASK_LIST = (
    "Rewrite your previous response as a list.",
    "Give me that as bullet points.",
    "Write your answer as a list.",
)
ASK_RESULT = ("What is the final answer?", "So what is the result?", "Give me just the number.")
_QUOTES = str.maketrans({"“": '"', "”": '"', "‘": "'", "’": "'", "—": "--", "–": "-", "…": "...", "\u00a0": " "})


@dataclass(frozen=True)
class Text:
    """One document: `parts` are a story's passages in order, or one question and its answer."""

    source: str
    title: str
    parts: tuple[str, ...]


def read_corpora(folder: Path) -> list[Text]:
    """All documents of the corpora under `folder`. Raises ConfigError when one is missing."""
    missing = [name for name in SOURCES if not (folder / name).is_dir()]
    if missing:
        raise ConfigError(
            f"{folder} lacks the corpora {', '.join(missing)}; see the model card for where they come from"
        )
    return [text for source in SOURCES for text in _READERS[source](source, folder / source)]


def split_held_out(texts: Sequence[Text]) -> tuple[list[Text], list[Text]]:
    """The documents to train on, and every 40th of each source, held out."""
    kept: list[Text] = []
    held: list[Text] = []
    seen: Counter[str] = Counter()
    for text in texts:
        seen[text.source] += 1
        (held if seen[text.source] % HELD_OUT == 0 else kept).append(text)
    return kept, held


def epoch(
    texts: Sequence[Text], rng: random.Random, weights: Mapping[str, float] | None = None
) -> Iterator[list[Message] | str]:
    """One shuffled pass over `texts`, each told as a chat (or, some stories, as plain text), with fresh wordings.

    `weights` says how often a source's texts come (1 where it is silent); by default the training's own.
    """
    weights = WEIGHTS if weights is None else weights
    drawn = [text for text in texts for _ in range(_times(weights.get(text.source, 1.0), rng))]
    rng.shuffle(drawn)
    for text in drawn:
        document = _tell(text, rng)
        if isinstance(document, list) and rng.random() < 0.25:  # a second subject in the same chat
            other = _tell(drawn[rng.randrange(len(drawn))], rng)
            document = document + other if isinstance(other, list) else document
        if isinstance(document, list) and rng.random() < 0.08:
            document = [{"role": "system", "content": rng.choice(SYSTEM_PROMPTS)}, *document]
        yield document


def _times(weight: float, rng: random.Random) -> int:
    return int(weight) + (rng.random() < weight % 1)


def _chat(*contents: str) -> list[Message]:
    return [{"role": "assistant" if i % 2 else "user", "content": content} for i, content in enumerate(contents)]


def _tell(text: Text, rng: random.Random) -> list[Message] | str:
    if text.source in ("gpteacher", "gsm8k-train"):
        return _chat(*text.parts, *_follow_up(text, rng))
    if text.source == "tinyshakespeare" or rng.random() < 0.2:
        return "\n\n".join(text.parts)
    return _tell_story(text, rng)


def _follow_up(text: Text, rng: random.Random) -> tuple[str, ...]:
    """A second question about the answer, whose own answer can be made from it; often none."""
    answer = text.parts[1]
    if text.source == "gsm8k-train":
        result = answer.rsplit(" ", 1)[-1]
        return (rng.choice(ASK_RESULT), f"The final answer is {result}") if rng.random() < 0.15 else ()
    sentences = re.split(r"(?<=[.!?]) +", answer)
    if len(sentences) < 3 or any(mark in answer for mark in "{};=") or rng.random() < 0.7:
        return ()
    if rng.random() < 0.5:
        return rng.choice(ASK_SHORT), sentences[0]
    return rng.choice(ASK_LIST), "\n".join(f"- {sentence}" for sentence in sentences)


def _tell_story(text: Text, rng: random.Random) -> list[Message]:
    count = rng.choice((1, 1, 1, 2))
    whole = len(text.parts) <= 2
    start = 0 if whole else rng.randrange(max(1, len(text.parts) - count + 1))
    parts = text.parts if whole else text.parts[start : start + count]
    passage = "\n\n".join(parts)
    kind = rng.random()
    if text.title and start == 0 and kind < 0.5:
        turns = [rng.choice(ASK_TITLE).format(text.title), passage]
    elif kind < 0.65 and len(sentences := re.split(r"(?<=[.!?]) ", passage, maxsplit=2)) == 3:
        opening = " ".join(sentences[:2]) if rng.random() < 0.5 else sentences[0]
        turns = [rng.choice(ASK_OPENING).format(opening), passage[len(opening) :].strip()]
    else:
        turns = [rng.choice(ASK_TOPIC).format(_topic(passage, rng)), passage]
    after = start + len(parts)
    if after < len(text.parts) and rng.random() < 0.3:
        turns += [rng.choice(ASK_MORE), text.parts[after]]
    return _chat(*turns)


def _topic(passage: str, rng: random.Random) -> str:
    """A word or name that stands out in the passage: long, said often."""
    words = Counter(re.findall(r"(?<=[a-z,] )[A-Z][a-z]{2,}(?: [A-Z][a-z]+)?|\b[a-z]{5,}\b", passage))
    best = sorted(words, key=lambda word: -words[word] * (3 if word[0].isupper() else len(word) / 6))[:4]
    if not best:
        return "a child"
    word = rng.choice(best)
    return word if word[0].isupper() or word.endswith("s") else f"{'an' if word[0] in 'aeiou' else 'a'} {word}"


def _clean(raw: str) -> str:
    """Straight quotes, and hard-wrapped paragraphs on one line each."""
    paragraphs = re.split(r"\n\s*\n", raw.translate(_QUOTES).replace("_", "").replace("*", ""))
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs if paragraph.strip())


def _passages(raw: str) -> tuple[str, ...]:
    """Whole paragraphs gathered into passages of about PASSAGE characters."""
    passages: list[str] = []
    current: list[str] = []
    for paragraph in _clean(raw).split("\n\n"):
        current.append(paragraph)
        if sum(map(len, current)) >= PASSAGE:
            passages.append("\n\n".join(current))
            current = []
    if current:
        passages.append("\n\n".join(current))
    return tuple(passages)


def _books(source: str, folder: Path) -> Iterator[Text]:
    for path in sorted(folder.glob("*.md")):
        if path.name == "SOURCE.md":
            continue
        body = path.read_text(encoding="utf-8").split("-------", 1)[-1]
        for chapter in re.split(r"^##+ ", body, flags=re.MULTILINE)[1:]:
            heading, _, story = chapter.partition("\n")
            passages = _passages(story)
            title = "" if "chapter" in heading.lower() else heading.strip(" .#").title().replace("'S", "'s")
            for start in range(0, len(passages), 8):  # a few passages a document, so that a held-out one is small
                yield Text(source, title if start == 0 else "", passages[start : start + 8])


def _tales(source: str, folder: Path) -> Iterator[Text]:
    for row in _rows(folder):
        passages = _passages(row["text"])
        for start in range(0, len(passages), 8):
            yield Text(source, row["title"].replace("-", " ") if start == 0 else "", passages[start : start + 8])


def _plays(source: str, folder: Path) -> Iterator[Text]:
    speeches = (folder / "input.txt").read_text(encoding="utf-8").split("\n\n")
    for start in range(0, len(speeches), 24):
        yield Text(source, "", ("\n\n".join(speeches[start : start + 24]),))


def _instructions(source: str, folder: Path) -> Iterator[Text]:
    for path in sorted(folder.glob("*.json")):
        for row in json.loads(path.read_text(encoding="utf-8")):
            question, extra, answer = (
                row[key].translate(_QUOTES).strip() for key in ("instruction", "input", "response")
            )
            if question and answer:
                yield Text(source, "", (f"{question}\n\n{extra}" if extra else question, answer))


def _sums(source: str, folder: Path) -> Iterator[Text]:
    for row in _rows(folder):
        steps, _, result = re.sub(r"<<.*?>>", "", row["answer"]).translate(_QUOTES).partition("\n#### ")
        yield Text(
            source, "", (row["question"].translate(_QUOTES).strip(), f"{steps}\nThe answer is {result.strip()}.")
        )


def _rows(folder: Path) -> Iterator[dict[str, str]]:
    for path in sorted(folder.glob("*.jsonl")):
        yield from map(json.loads, path.read_text(encoding="utf-8").splitlines())


_READERS: dict[str, Callable[[str, Path], Iterator[Text]]] = {
    "childrens-books": _books,
    "fairytaleqa-stories": _tales,
    "african-storybook": _tales,
    "tinyshakespeare": _plays,
    "gpteacher": _instructions,
    "gsm8k-train": _sums,
}
