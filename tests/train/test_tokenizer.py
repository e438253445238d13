"""The tokenizer as it is saved: what AutoTokenizer reads back."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import AutoTokenizer

from specdecodes.train.demo import schedule
from specdecodes.train.tokenizer import BEGIN, END, render, train_tokenizer

CHAT = [
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": " What is 1234 + 5?\nSay it’s so. "},
    {"role": "assistant", "content": "It is 1239."},
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer([render(CHAT), render("the cat sat on the mat, the cat sat " * 50)], folder, size=300)
    return folder


def test_the_chat_template_makes_what_training_saw(folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.apply_chat_template(CHAT, tokenize=False) == render(CHAT)
    tokens = tokenizer.apply_chat_template(CHAT)["input_ids"]
    assert tokens == tokenizer(render(CHAT), add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(tokens) == render(CHAT)
    asked = tokenizer.apply_chat_template(CHAT[:2], tokenize=False, add_generation_prompt=True)
    assert render(CHAT).startswith(asked) and asked.endswith("<|assistant|>")


def test_digits_are_single_and_turns_end_with_eos(folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert [token for token in tokenizer.tokenize("In 1234") if token.isdigit()] == ["1", "2", "3", "4"]
    assert (tokenizer.bos_token, tokenizer.eos_token) == (BEGIN, END)
    assert tokenizer("a cat")["input_ids"][0] == tokenizer.bos_token_id
    assert tokenizer.apply_chat_template(CHAT)["input_ids"][-1] == tokenizer.eos_token_id


@pytest.mark.parametrize("text", ["naïve café, 北京 🙂", "def f(x):\n\treturn x  # two  spaces", " leading"])
def test_any_text_comes_back(folder: Path, text: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.decode(tokenizer(text)["input_ids"], skip_special_tokens=True) == text


def test_the_learning_rate_rises_then_falls_to_zero() -> None:
    rates = [schedule(done / 100, warmup=0.1) for done in range(0, 121)]
    assert rates[0] == 0 and max(rates) == rates[10] == 1
    assert all(later < sooner for sooner, later in zip(rates[10:100], rates[11:101], strict=True))
    assert rates[100:] == [0] * 21
