"""The demo models that come with the project load offline, fit, and answer."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

ASSETS = Path(__file__).resolve().parents[2] / "assets"
MODELS = ("demo", "demo-draft")


@pytest.mark.parametrize("name", MODELS)
def test_one_weights_file_below_16_mb_and_a_card(name: str) -> None:
    weights = list((ASSETS / name).glob("*.safetensors"))
    assert len(weights) == 1
    assert weights[0].stat().st_size < 16_000_000
    card = (ASSETS / name / "README.md").read_text(encoding="utf-8")
    assert all(word in card for word in ("Data", "Command", "Held-out loss", "Samples", "CC BY"))


def test_the_models_share_a_tokenizer() -> None:
    one, other = (AutoTokenizer.from_pretrained(ASSETS / name) for name in MODELS)
    assert one.get_vocab() == other.get_vocab()
    assert one.chat_template == other.chat_template


QUESTIONS = (
    "Tom has 3 apples and buys 5 more. How many apples does he have?",
    "Imagine you are a famous explorer. Describe what you found.",
    "Tell me a story about a little princess.",
    "Write a C++ program that adds two numbers.",
)


@pytest.mark.parametrize("name", MODELS)
def test_it_answers_and_stops_by_itself_half_the_time(name: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(ASSETS / name, padding_side="left")
    model = AutoModelForCausalLM.from_pretrained(ASSETS / name, dtype=torch.float32).eval()
    chats = [[{"role": "user", "content": question}] for question in QUESTIONS]
    prompts = tokenizer.apply_chat_template(chats, add_generation_prompt=True, padding=True, return_tensors="pt")
    with torch.inference_mode():  # decoded as the demo's pipelines do
        rows = model.generate(**prompts, max_new_tokens=200, do_sample=False, repetition_penalty=1.2)
    answers = rows[:, prompts["input_ids"].shape[1] :]
    assert all(len(text.split()) > 4 for text in tokenizer.batch_decode(answers, skip_special_tokens=True))
    assert sum(tokenizer.eos_token_id in answer for answer in answers.tolist()) >= len(QUESTIONS) // 2
