"""One answer as it grows: its tokens, its text, and where it ends."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from specdecodes.sampling import SamplingParams


class PartialAnswer:
    """Tokens and text of one answer, and where it ends."""

    def __init__(self, tokenizer: Any, params: SamplingParams, eos_ids: frozenset[int], room: int) -> None:
        self.tokens: list[int] = []
        self.text = ""
        self.reason: str | None = None
        self._tokenizer, self._params = tokenizer, params
        self._eos = frozenset() if params.ignore_eos else eos_ids
        self._limit = min(params.max_tokens, room)
        self._limit_reason = "length" if params.max_tokens <= room else "context"
        self._shown = 0

    def cut(self, tokens: Sequence[int]) -> tuple[int, str | None]:
        """Take the tokens of a round up to where the answer ends: how many, and why it ends there."""
        taken = 0
        while self.reason is None and taken < len(tokens):
            self.tokens.append(tokens[taken])
            self.reason = self._ends(tokens[taken])
            taken += 1
        self.text = self._decoded() if self.reason != "stop_string" else self.text
        return taken, self.reason

    def _ends(self, token: int) -> str | None:
        if token in self._eos:
            return "stop"
        if self._params.stop:
            text = self._decoded()
            found = [place for place in (text.find(stop) for stop in self._params.stop) if place >= 0]
            if found:
                self.text = text[: min(found)]
                return "stop_string"
        return self._limit_reason if len(self.tokens) >= self._limit else None

    def _decoded(self) -> str:
        return self._tokenizer.decode(self.tokens, skip_special_tokens=True)

    def new_text(self, last: bool = False) -> str:
        """What may be shown since the last call: no half characters, nothing that may turn out to begin a stop
        string."""
        held = 0 if last or self.reason else max((len(stop) - 1 for stop in self._params.stop), default=0)
        end = len(self.text) - held
        if not last and not self.reason and self.text.endswith("\ufffd"):
            end = min(end, len(self.text.rstrip("\ufffd")))
        piece = self.text[self._shown : max(end, self._shown)]
        self._shown += len(piece)
        return piece
