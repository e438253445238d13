"""The mask finds exactly what the assistant said, whatever the template writes around it."""

from __future__ import annotations

import pytest

from specdecodes.train.data_gen.mask import UnmaskableError, masked
from tests.train.data_gen.templates import tokenizer_of

CHAT = [
    {"role": "user", "content": "Hello there!"},
    {"role": "assistant", "content": "Hello! How are you today?"},
    {"role": "user", "content": "I am well. What is 40 and 2?"},
    {"role": "assistant", "content": "It's 42.\n\n1, 2, 3"},
    {"role": "user", "content": "Hello there!"},
    {"role": "assistant", "content": "Hello there!"},  # what the user said is not what is found
]
SYSTEM = {"role": "system", "content": "Tell me more."}
ENDS = {"llama-2": "</s>", "llama-3": "<|eot_id|>", "llama-3-first": "<|eot_id|>"}


def runs(tokenizer, result):
    """The texts of the unmasked stretches."""
    texts, current = [], []
    for token, own in zip([*result.tokens, -1], [*result.mask, False], strict=True):
        if own:
            current.append(token)
        elif current:
            texts.append(tokenizer.decode(current))
            current = []
    return texts


@pytest.mark.parametrize("system", (False, True), ids=("plain", "system"))
@pytest.mark.parametrize("name", ("llama-2", "llama-3", "llama-3-first", "qwen", "chatml", "marked"))
def test_the_unmasked_tokens_are_the_assistants_words_and_its_end_of_turn(name, system):
    tokenizer = tokenizer_of(name)
    chat = [SYSTEM, *CHAT] if system else CHAT
    result = masked(tokenizer, chat)
    end = ENDS.get(name, "<|im_end|>")
    own = [token for token, mine in zip(result.tokens, result.mask, strict=True) if mine]
    answers = [message["content"] for message in CHAT if message["role"] == "assistant"]
    ended = tokenizer.convert_tokens_to_ids(end)
    assert own.count(ended) == len(answers)
    said = [[]]
    for token in own:
        said.append([]) if token == ended else said[-1].append(token)
    assert [tokenizer.decode(tokens) for tokens in said[:-1]] == answers and not said[-1]
    whole = tokenizer.apply_chat_template(chat, tokenize=False)
    assert list(result.tokens) == tokenizer(whole, add_special_tokens=False)["input_ids"]


def test_an_answer_that_the_template_rewrites_later_stays_masked():
    tokenizer = tokenizer_of("qwen-3")
    (only,) = runs(tokenizer, masked(tokenizer, CHAT))
    assert only == "<think>\n\n</think>\n\nHello there!<|im_end|>"


def test_a_template_that_refuses_is_a_reason_and_not_an_error_of_its_own():
    with pytest.raises(UnmaskableError, match="alternate"):
        masked(tokenizer_of("llama-2"), [*CHAT, CHAT[-1]])


def test_of_a_plain_text_every_token_counts():
    tokenizer = tokenizer_of("qwen")
    result = masked(tokenizer, "Hello there!")
    assert all(result.mask) and tokenizer.decode(result.tokens) == "Hello there!"


def test_without_a_template_a_chat_cannot_be_masked():
    tokenizer = tokenizer_of("qwen")
    tokenizer.chat_template = None
    with pytest.raises(UnmaskableError, match="no chat template"):
        masked(tokenizer, CHAT)
