"""How well a target predicts a text: every token once, in windows that overlap."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from specdecodes.errors import ConfigError
from specdecodes.generator import Generator
from specdecodes.likelihood import ScoreRequest

LOG_2 = math.log(2.0)


@dataclass(frozen=True)
class Perplexity:
    """`nats` of all `tokens` that were scored, which stand for `nbytes` bytes of UTF-8."""

    nats: float
    tokens: int
    nbytes: int
    windows: int
    window: int
    stride: int
    seconds: float

    @property
    def figures(self) -> dict[str, float]:
        """perplexity (of a token), nats_per_token, nats_per_byte, bits_per_byte."""
        token, byte = self.nats / self.tokens, self.nats / self.nbytes
        return {
            "perplexity": math.exp(token),
            "nats_per_token": token,
            "nats_per_byte": byte,
            "bits_per_byte": byte / LOG_2,
        }

    @property
    def how(self) -> str:
        """The method in one line, for whoever compares figures."""
        return (
            f"{self.tokens:,} tokens in {self.windows} windows of {self.window}, {self.stride} apart: each token is "
            f"scored once, with {self.window - self.stride} tokens before it or more, but for those of the first "
            "window; the first token of the text has nothing before it and is not scored"
        )


def read_text(path: Path) -> str:
    """The text in `path`. Raises ConfigError when there is none."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is no text in UTF-8 (byte {error.start}); give a text file.") from error
    if not text.strip():
        raise ConfigError(f"{path} holds no text.")
    return text


def strided(tokens: Sequence[int], window: int, stride: int) -> list[ScoreRequest]:
    """Windows of `window` tokens, `stride` apart, that score each of `tokens` but the first once."""
    requests, scored = [], 1
    for start in range(0, len(tokens), stride):
        stop = min(start + window, len(tokens))
        if stop > scored:
            requests.append(ScoreRequest(tuple(tokens[start:stop]), scored - start))
        scored = max(scored, stop)
        if stop == len(tokens):
            break
    return requests


def perplexity(
    generator: Generator,
    text: str,
    *,
    window: int | None = None,
    stride: int | None = None,
    most: int | None = None,
    watch: Callable[[int, int], None] = lambda done, total: None,
) -> Perplexity:
    """Score `text`, or its first `most` tokens. Windows are as long as the context where `window` is None, and half of
    a window apart where `stride` is. `watch` is told the windows that are done and how many there are.

    Raises ConfigError for windows that do not fit or leave tokens out, and for a text of one token.
    """
    started = time.perf_counter()
    room = generator.context_length
    window = min(room, window or room)
    stride = stride or max(1, window // 2)
    if window < 2 or not 1 <= stride < window:
        raise ConfigError(f"windows of {window} tokens, {stride} apart, leave tokens out; the stride must be smaller.")
    tokens = generator.tokenizer(text)["input_ids"][:most]
    if len(tokens) < 2:
        raise ConfigError("a text of one token cannot be scored: nothing comes before it.")
    requests = strided(tokens, window, stride)
    done = 0

    def count(more: int) -> None:
        nonlocal done
        done += more
        watch(done, len(requests))

    # Windows that stream are packed: they share one pass over the weights.
    found = generator.score(requests, batch=None if generator.placement.streamed else 1, watch=count)
    nbytes = len(generator.tokenizer.decode(tokens[1:], skip_special_tokens=True).encode())
    nats = -sum(likelihood.total for likelihood in found)
    return Perplexity(nats, len(tokens) - 1, nbytes, len(requests), window, stride, time.perf_counter() - started)
