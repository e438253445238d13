"""Which tokens of a conversation are the assistant's own, for any chat template.

A template that marks generations itself ({% generation %}) is believed. For any other, a turn's tokens are those by
which the template's output grows when the answer is added to the prompt, compared token by token. No template's words
are known here.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import TemplateError

from specdecodes.train.data_gen.conversations import Conversation, Message

MARKER = re.compile(r"\{%-?\s*generation\s*-?%\}")


class UnmaskableError(ValueError):
    """A conversation whose answers cannot be found among its tokens; the text is a short reason."""


@dataclass(frozen=True)
class MaskedTokens:
    """A conversation's `tokens` as the model sees them; `mask` is True where a token is the assistant's."""

    tokens: tuple[int, ...]
    mask: tuple[bool, ...]

    def cut(self, length: int) -> MaskedTokens:
        """The first `length` tokens."""
        return MaskedTokens(self.tokens[:length], self.mask[:length])


def masked(tokenizer: Any, conversation: Conversation) -> MaskedTokens:
    """Tokens and mask of one conversation; of a plain text every token counts but those that the tokenizer adds.

    An answer's end-of-turn token counts as the assistant's, what a template writes behind it does not. An answer that
    the template would change once more is said (some drop earlier reasoning) stays masked, for the model would never
    say it so. Raises UnmaskableError when the template refuses the conversation or no answer is left.
    """
    if isinstance(conversation, str):
        return _masked_text(tokenizer, conversation)
    if tokenizer.chat_template is None:
        raise UnmaskableError("the tokenizer has no chat template")
    try:
        if MARKER.search(tokenizer.chat_template):
            result = _by_markers(tokenizer, conversation)
        else:
            result = _by_prefixes(tokenizer, conversation)
    except TemplateError as error:
        raise UnmaskableError(f"the chat template refuses it: {error}") from error
    if not any(result.mask):
        raise UnmaskableError("no answer appears in it as it was given")
    return result


def _masked_text(tokenizer: Any, text: str) -> MaskedTokens:
    encoded = tokenizer(text, return_special_tokens_mask=True)
    return MaskedTokens(tuple(encoded["input_ids"]), tuple(not special for special in encoded["special_tokens_mask"]))


def _by_markers(tokenizer: Any, messages: list[Message]) -> MaskedTokens:
    encoded = tokenizer.apply_chat_template(messages, return_dict=True, return_assistant_tokens_mask=True)
    return MaskedTokens(tuple(encoded["input_ids"]), tuple(bool(own) for own in encoded["assistant_masks"]))


def _by_prefixes(tokenizer: Any, messages: list[Message]) -> MaskedTokens:
    tokens = _encoded(tokenizer, messages)
    mask = [False] * len(tokens)
    ends = _ends(tokenizer)
    for index, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        before, after = _encoded(tokenizer, messages[:index], prompt=True), _encoded(tokenizer, messages[: index + 1])
        stop = len(after) - _tail(tokenizer, messages[: index + 1], after)
        end = next((place for place in range(stop, len(after)) if after[place] in ends), None)
        whole = stop if end is None else end + 1
        if tokens[: len(before)] != before or tokens[:whole] != after[:whole]:
            continue
        mask[len(before) : stop] = [True] * (stop - len(before))
        if end is not None:
            mask[end] = True
    return MaskedTokens(tuple(tokens), tuple(mask))


def _tail(tokenizer: Any, messages: list[Message], tokens: Sequence[int]) -> int:
    """How many of the last `tokens` are the template's, not the last message's: those that any other text has too."""
    *earlier, last = messages
    other = "1" if last["content"].rstrip().endswith("0") else "0"
    others = _encoded(tokenizer, [*earlier, last | {"content": other}])
    pairs = zip(reversed(tokens), reversed(others), strict=False)
    return next((place for place, (ours, theirs) in enumerate(pairs) if ours != theirs), len(others))


def _encoded(tokenizer: Any, messages: list[Message], *, prompt: bool = False) -> list[int]:
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=prompt)
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def _ends(tokenizer: Any) -> frozenset[int]:
    """Tokens that may end a turn: the special ones."""
    added = {number for number, token in tokenizer.added_tokens_decoder.items() if token.special}
    return frozenset(added | set(tokenizer.all_special_ids))
