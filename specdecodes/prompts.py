"""Prompts as token ids: plain text, a chat by the model's own template, or ids as they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jinja2 import TemplateError

from specdecodes.errors import ConfigError

Prompt = str | Sequence[dict[str, str]] | Sequence[int]


def token_ids(tokenizer: Any, prompt: Prompt, model_name: str) -> list[int]:
    """Token ids of `prompt`, perhaps none. Raises ConfigError for what the `tokenizer` of `model_name` cannot take."""
    if isinstance(prompt, str):
        return list(tokenizer(_checked(prompt))["input_ids"])
    if all(isinstance(token, int) for token in prompt):
        return list(prompt)  # type: ignore[arg-type]
    return _templated(tokenizer, list(prompt), model_name)


def _templated(tokenizer: Any, messages: list[Any], model_name: str) -> list[int]:
    if tokenizer.chat_template is None:
        raise ConfigError(
            f"{model_name} has no chat template; ask with plain text (run-test --raw), or use its chat version."
        )
    for message in messages:
        _checked(message["content"])
    try:
        encoded = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)
    except TemplateError as error:  # of what it was not written for: for Mistral's, a system message
        raise ConfigError(
            f"the chat template of {model_name} refuses these messages: {error}; leave out what it names, or ask with "
            "plain text (run-test --raw)."
        ) from error
    return list(encoded["input_ids"])


def _checked(text: str) -> str:
    """`text`, unless it holds bytes that standard input could not turn into characters."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ConfigError("the text is not UTF-8; convert it first (iconv -f latin1 -t utf8).") from error
    return text
