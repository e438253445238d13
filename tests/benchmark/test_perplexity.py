"""Windows over a text: every token once, with enough before it; the figures are Transformers' own."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from specdecodes.benchmark.perplexity import perplexity, read_text, strided
from specdecodes.cli import main
from specdecodes.config import Memory, Pipeline, Target
from specdecodes.errors import ConfigError
from specdecodes.generator import Generator
from specdecodes.methods import build
from tests.commands import exit_code

TEXT = " ".join(f"w{3 + 7 * i % 90}" for i in range(150))


@pytest.fixture(scope="module")
def folder(tiny_checkpoint: Callable[..., Path]) -> Path:
    return tiny_checkpoint("llama")


@pytest.fixture(scope="module")
def generator(folder: Path) -> Iterator[Generator]:
    target = Target(str(folder), device="cpu")
    pipeline = Pipeline("vanilla", target, memory=Memory("4GiB"), max_length=64, compile=False)
    with build(pipeline, progress=lambda text: None) as opened:
        yield opened


@pytest.mark.parametrize(("count", "window", "stride"), [(150, 64, 32), (150, 64, 63), (64, 64, 8), (10, 64, 1)])
def test_every_token_is_scored_once_and_sees_enough(count: int, window: int, stride: int) -> None:
    scored = []
    for request in strided(range(count), window, stride):
        assert len(request.tokens) <= window
        assert request.first >= min(window - stride, request.tokens[request.first])
        scored += request.tokens[request.first :]
    assert scored == list(range(1, count))


def test_figures_equal_transformers(generator: Generator, folder: Path) -> None:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokens, nats = torch.tensor(generator.tokenizer(TEXT)["input_ids"]), 0.0
    for start, first in ((0, 1), (24, 40), (48, 40), (72, 40), (96, 40)):
        rows = tokens[start : start + 64]
        with torch.no_grad():
            logprobs = model(rows[None]).logits[0].log_softmax(-1)
        nats -= float(logprobs[first - 1 : -1].gather(1, rows[first:, None]).sum())
    told: list[tuple[int, int]] = []
    found = perplexity(generator, TEXT, stride=24, watch=lambda done, total: told.append((done, total)))
    assert found.nats == pytest.approx(nats, abs=1e-3)
    assert (found.tokens, found.windows, found.window, told[-1]) == (149, 5, 64, (5, 5))
    assert found.nbytes == len(TEXT) - 3, "the first word and the blank behind it are not scored"
    figures = found.figures
    assert figures["perplexity"] == pytest.approx(math.exp(nats / 149), rel=1e-5)
    assert figures["bits_per_byte"] == pytest.approx(nats / math.log(2) / found.nbytes, rel=1e-5)
    assert "149 tokens in 5 windows of 64, 24 apart" in found.how and "40 tokens before it" in found.how


def test_windows_that_cannot_work_are_refused(generator: Generator) -> None:
    with pytest.raises(ConfigError, match="leave tokens out"):
        perplexity(generator, TEXT, window=16, stride=16)
    with pytest.raises(ConfigError, match="one token"):
        perplexity(generator, "w5")


def test_what_is_no_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        read_text(tmp_path / "none.txt")
    (tmp_path / "picture").write_bytes(b"ab\xff\xfe")
    with pytest.raises(ConfigError, match="byte 2"):
        read_text(tmp_path / "picture")
    (tmp_path / "empty").write_text(" \n")
    with pytest.raises(ConfigError, match="holds no text"):
        read_text(tmp_path / "empty")


def test_the_command_says_figures_and_how(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = tmp_path / "text.txt"
    text.write_text(TEXT)
    words = f"run-perplexity {text} --model {folder} --eager --device-memory 2GiB --max-length 64 --tokens 100"
    code, table = exit_code(main, words.split()), capsys.readouterr().out
    assert code == 0 and "bits per byte" in table and "99 tokens in 3 windows of 64, 32 apart" in table
    assert exit_code(main, [*words.split(), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["type"] == "perplexity" and found["tokens"] == 99 and found["perplexity"] > 1
    assert f"{found['nats_per_token']:.4f}" in table and found["environment"]["machine"]
