"""What people hold: prompt in, text and measurements out."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

from specdecodes.answer import PartialAnswer
from specdecodes.decode import LogitsHook, decode, finite
from specdecodes.drafters import Drafter
from specdecodes.engine.compile import CompileLog
from specdecodes.engine.runner import ModelRunner
from specdecodes.errors import ContextOverflowError, NumericsError
from specdecodes.likelihood import Likelihood, ScoreRequest, batches, likelihoods, shared_length
from specdecodes.offload.planning.plan import Placement
from specdecodes.prompts import Prompt, token_ids
from specdecodes.sampling import Sampler, SamplingParams
from specdecodes.stats import Generation, Round


@dataclass(frozen=True)
class Chunk:
    """A piece of an answer as it appears. The last chunk carries the whole `generation`."""

    text: str
    tokens: tuple[int, ...]
    round: Round | None
    generation: Generation | None = None


@dataclass(frozen=True)
class Origin:
    """What a generator was made from, for results and screens."""

    method: str
    model: str
    dtype: str
    device: str
    exact: bool
    kernel: str  # of the draft's linears; empty without a draft


class Generator:
    """Answers one request at a time with one target and one drafter.

    A string prompt is text as it is; messages (`[{"role": ..., "content": ...}]`) go through the chat template;
    integers are token ids.
    """

    def __init__(
        self,
        tokenizer: Any,
        target: ModelRunner,
        drafter: Drafter,
        *,
        eos_ids: Sequence[int],
        origin: Origin,
        placement: Placement,
        on_close: Callable[[], None] = lambda: None,
        habits: Callable[[], Mapping[str, float]] = dict,
    ) -> None:
        self.tokenizer, self.origin, self.placement = tokenizer, origin, placement
        self.eos_ids = frozenset(eos_ids)
        self._target, self._drafter, self._on_close, self._habits = target, drafter, on_close, habits
        self._committed: list[int] = []  # the tokens whose rows the cache holds, the drafter's too
        self._scored: tuple[int, ...] = ()  # the same after `score`, which the drafter hears nothing of
        self._sampler: Sampler | None = None  # of the last request

    @classmethod
    def from_pretrained(
        cls, model: str, *, method: str = "subspec_sd", memory: str | None = None, **fields: Any
    ) -> Generator:
        """A generator for a checkpoint folder or hub id; `memory` is the device budget ("8GiB").

        `fields` are a pipeline's, by dotted key with underscores doubled or by name: `draft__model=...`,
        `tree__depth=8`, `exact=True`.
        """
        from specdecodes.config import Memory, Pipeline, Target, override
        from specdecodes.methods import build

        pipeline = Pipeline(method=method, target=Target(model), memory=Memory(device=memory))
        for name, value in fields.items():
            pipeline = override(pipeline, name.replace("__", "."), value)
        return build(pipeline)

    @property
    def method(self) -> str:
        return self.origin.method

    @property
    def model_name(self) -> str:
        return self.origin.model

    @property
    def exact(self) -> bool:
        return self.origin.exact

    @property
    def context_length(self) -> int:
        """Tokens of prompt and answer together."""
        return self._target.cache.shape.max_length

    @property
    def habits(self) -> Mapping[str, float]:
        """What requests so far showed of the draft, for the next process to begin with; nothing where none adapts."""
        return self._habits()

    @property
    def compile_log(self) -> CompileLog:
        """What compiling cost so far in this process; nothing when steps are eager."""
        return self._target.steps.log

    def generate(
        self,
        prompt: Prompt,
        params: SamplingParams | None = None,
        *,
        reuse_cache: bool = False,
        on_logits: LogitsHook | None = None,
    ) -> Generation:
        """Answer `prompt`. Arguments as in `stream`."""
        generation = None
        for chunk in self.stream(prompt, params, reuse_cache=reuse_cache, on_logits=on_logits):
            generation = chunk.generation
        assert generation is not None, "the last chunk carries the generation"
        return generation

    @torch.no_grad()
    def stream(
        self,
        prompt: Prompt,
        params: SamplingParams | None = None,
        *,
        reuse_cache: bool = False,
        on_logits: LogitsHook | None = None,
    ) -> Iterator[Chunk]:
        """Answer `prompt` piece by piece.

        `reuse_cache` keeps the rows of the longest prefix that the cache already holds (a chat's next turn);
        otherwise a request starts from nothing, so answers do not depend on what was asked before. `on_logits` is
        called with the raw target logits [n, vocab] of each round's emitted tokens. Raises ContextOverflowError,
        StreamError, NumericsError; the generator stays usable after any of them and after Ctrl-C.
        """
        params = params or SamplingParams()
        started = time.perf_counter()
        ids = self.encode(prompt)
        kept = self._rewind(shared_length(self._committed, ids[:-1]) if reuse_cache else 0)
        answer = PartialAnswer(self.tokenizer, params, self.eos_ids, self.context_length - len(ids))
        target, traffic = self._target, self._target.traffic
        sampler = self._sampler_of(params)
        sampler.observe(ids)
        tokens = torch.tensor(ids, device=target.device)
        try:
            root = self._prefill(tokens, kept, sampler, on_logits)
            _, reason = answer.cut((root,))
            prefill_seconds, streamed = time.perf_counter() - started, target.traffic - traffic
            yield Chunk(answer.new_text(), (root,), None)
            rounds: list[Round] = []
            if reason is None:
                for round_ in decode(target, self._drafter, sampler, root, answer.cut, on_logits):
                    rounds.append(round_)
                    yield Chunk(answer.new_text(), round_.tokens, round_)
        except NumericsError:
            target.cache.clear()
            raise
        finally:
            self._committed = (ids + answer.tokens)[: target.cache.length]
        wait = min(streamed.wait_seconds, prefill_seconds)
        generation = Generation(
            text=answer.text,
            tokens=tuple(answer.tokens),
            prompt_tokens=len(ids),
            cached_tokens=kept,
            rounds=tuple(rounds),
            prefill_seconds={"target": prefill_seconds - wait, "wait": wait},
            total_seconds=time.perf_counter() - started,
            time_to_first_token_s=prefill_seconds,
            prefill_bytes=streamed.bytes_read,
            finish_reason=answer.reason or "length",
            prefill_read_seconds=streamed.read_seconds,
        )
        yield Chunk(answer.new_text(last=True), (), None, generation)

    @torch.no_grad()
    def score(
        self,
        requests: Sequence[ScoreRequest],
        *,
        batch: int | None = 1,
        on_logits: LogitsHook | None = None,
        watch: Callable[[int], None] = lambda done: None,
    ) -> list[Likelihood]:
        """How likely the target finds given tokens, in the order of `requests`.

        `batch` of them at most (None: as many as the context has room for) share one pass over the weights. Tokens that
        neighbours begin with alike are run once. `on_logits` is called with the raw target logits [n, vocab] of the
        rows that are run; `watch` with the number of requests done since its last call. Raises ContextOverflowError,
        StreamError, NumericsError.
        """
        found: dict[int, Likelihood] = {}
        for places in batches(requests, batch, self.context_length):
            # Backwards: the last one stays in the cache, and begins most like the first of the next batch.
            chosen = [requests[place] for place in reversed(places)]
            kept = min(min(shared_length(self._scored, one.inputs), one.first - 1) for one in chosen)
            self._rewind(kept)
            try:
                found |= zip(reversed(places), likelihoods(self._target, chosen, on_logits), strict=True)
            except NumericsError:
                self._target.cache.clear()
                raise
            self._scored = chosen[0].inputs
            watch(len(places))
        return [found[place] for place in range(len(requests))]

    def encode(self, prompt: Prompt) -> list[int]:
        """Token ids of a prompt, as the model will see them. Raises ContextOverflowError when no token could follow."""
        ids = token_ids(self.tokenizer, prompt, self.model_name)
        if not ids:
            bos = self.tokenizer.bos_token_id
            ids = [bos if bos is not None else next(iter(self.eos_ids), 0)]
        if len(ids) >= self.context_length:
            raise ContextOverflowError(
                f"the prompt has {len(ids)} tokens and the context holds {self.context_length}; "
                "shorten it or raise max_length (--max-length)."
            )
        return ids

    def close(self) -> None:
        """Stop background readers and release files."""
        self._on_close()

    def __enter__(self) -> Generator:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _sampler_of(self, params: SamplingParams) -> Sampler:
        """The last request's with its history forgotten, if its settings were the same: a GPU replays steps that were
        recorded with it."""
        if self._sampler is None or self._sampler.params != params:
            self._sampler = Sampler(params, self._target.decoder.spec.vocab_size, self._target.device)
        self._sampler.forget()
        return self._sampler

    def _rewind(self, length: int) -> int:
        """Cut the cache back to `length` rows or fewer; what is left is the caller's to describe."""
        self._target.cache.truncate(min(length, self._target.cache.length))
        self._committed, self._scored = [], ()
        return self._target.cache.length

    def _prefill(self, tokens: Tensor, kept: int, sampler: Sampler, on_logits: LogitsHook | None) -> int:
        """Commit the prompt; returns the first token of the answer."""
        scores = self._target.prefill(tokens[kept:])
        finite(scores, torch.tensor([0], device=tokens.device))
        if on_logits is not None:
            on_logits(scores.logits)
        position = torch.tensor([tokens.shape[0]], device=tokens.device)
        root = int(sampler.scores(scores.logits, position).argmax(-1))
        sampler.observe((root,))
        self._drafter.begin(tokens, kept, sampler, scores)
        return root
