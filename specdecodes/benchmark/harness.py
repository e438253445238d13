"""A pipeline as lm-evaluation-harness asks models: log-likelihoods of its target, and answers by its method.

Needs lm_eval, an optional extra; see lm_eval.py beside this file.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import register_model
from lm_eval.models.utils import normalize_gen_kwargs
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
from tqdm import tqdm

from specdecodes import pipelines
from specdecodes.config import override
from specdecodes.errors import ConfigError, ContextOverflowError, suggest
from specdecodes.likelihood import ScoreRequest
from specdecodes.methods import build
from specdecodes.sampling import SamplingParams

DEFAULT_DEVICE = "cuda:0"  # what lm_eval says when nobody asked; the pipeline's own `auto` finds the same, or the CPU
ANSWER_TOKENS = 256  # where a task does not say how long answers may be; as other models of the harness have it
SAMPLING: dict[str, type] = {"top_k": int, "top_p": float, "min_p": float, "repetition_penalty": float, "seed": int}

Pair = tuple[tuple[str, str] | None, list[int], list[int]]
"""The texts (for the harness's cache), and the tokens of context and continuation."""

log = logging.getLogger(__name__)


@register_model("specdecodes")
class PipelineLM(TemplateLM):
    """`pipeline` is a pipeline's name, `settings` any of its settings by dotted key.

    Log-likelihoods are the target's: `batch_size` requests (`auto`: as many as the context has room for) share a pass
    over the weights, and requests that begin alike share the rows of their beginning. Answers are the method's, one
    after another, each on what the cache holds of its prompt; how they are sampled is the task's word, not the
    pipeline's. Contexts that are too long lose their beginning, as in the harness's other models, and that is told.
    """

    def __init__(
        self,
        pipeline: str = pipelines.DEMO,
        batch_size: int | str = 1,
        max_batch_size: int | None = None,
        device: str | None = None,
        **settings: Any,
    ) -> None:
        super().__init__()
        chosen = pipelines.load(pipeline)
        if device not in (None, DEFAULT_DEVICE):
            settings = {"target.device": device, **settings}
        for key, value in settings.items():
            chosen = override(chosen, key, str(value))
        self._generator = build(chosen, progress=log.info)
        self.tokenizer = self._generator.tokenizer
        self.batch_size = max_batch_size if str(batch_size).startswith("auto") else int(batch_size)
        self._seed = chosen.sampling.seed
        self._cut_short = 0

    @property
    def eot_token_id(self) -> int:
        return self.tokenizer.eos_token_id

    @property
    def prefix_token_id(self) -> int:
        bos = self.tokenizer.bos_token_id
        return self.eot_token_id if bos is None else bos

    @property
    def max_length(self) -> int:
        """Tokens that the context holds."""
        return self._generator.context_length

    @property
    def tokenizer_name(self) -> str:
        return self._generator.model_name.replace("/", "__")

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        """Token ids of `string`; without a word on special tokens, those that the tokenizer adds, but no second BOS."""
        begun = self.tokenizer.bos_token is not None and string.startswith(self.tokenizer.bos_token)
        special = not begun if add_special_tokens is None else add_special_tokens
        return self.tokenizer.encode(string, add_special_tokens=special)

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        return self.tokenizer.apply_chat_template(
            chat_history,
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=not add_generation_prompt,
        )

    def _loglikelihood_tokens(
        self, requests: Sequence[Pair], disable_tqdm: bool = False, **kwargs: Any
    ) -> list[tuple[float, bool]]:
        scored = [self._request(context, continuation) for _, context, continuation in requests]
        self._tell_cuts()
        with tqdm(total=len(scored), desc="log-likelihoods", disable=disable_tqdm) as bar:
            found = self._generator.score(scored, batch=self.batch_size, watch=bar.update)
        answers = [(likelihood.total, all(likelihood.likeliest)) for likelihood in found]
        for (texts, _, _), answer in zip(requests, answers, strict=True):
            if texts is not None:
                self.cache_hook.add_partial("loglikelihood", texts, answer)
        return answers

    def _request(self, context: list[int], continuation: list[int]) -> ScoreRequest:
        if len(continuation) > self.max_length:
            raise ContextOverflowError(
                f"a continuation to score has {len(continuation)} tokens and the context holds {self.max_length}; "
                "raise max_length in --model_args."
            )
        tokens = (*context, *continuation)[-self.max_length - 1 :]
        self._cut_short += len(tokens) < len(context) + len(continuation)
        return ScoreRequest(tokens, len(tokens) - len(continuation))

    def loglikelihood_rolling(self, requests: Sequence[Instance], disable_tqdm: bool = False) -> list[float]:
        """Nats of whole texts, each token scored once, in windows that fill the context."""
        texts = [request.args[0] for request in requests]
        windows: list[Pair] = []
        owners: list[int] = []
        for place, text in enumerate(texts):
            tokens = self.tok_encode(text)
            for window in get_rolling_token_windows(tokens, self.prefix_token_id, self.max_length, context_len=1):
                windows.append((None, *make_disjoint_window(window)))
                owners.append(place)
        totals = [0.0] * len(texts)
        for place, (nats, _) in zip(owners, self._loglikelihood_tokens(windows, disable_tqdm), strict=True):
            totals[place] += nats
        for text, total in zip(texts, totals, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", (text,), total)
        return totals

    def generate_until(self, requests: Sequence[Instance], disable_tqdm: bool = False) -> list[str]:
        """Answers up to a stop string, in the order of `requests`; asked in the order of their tokens, so that each
        finds most of its beginning in the cache."""
        asked = [(place, *request.args) for place, request in enumerate(requests)]
        settled = [(place, *self._question(context, options)) for place, context, options in asked]
        self._tell_cuts()
        answers: dict[int, str] = {}
        for place, tokens, params in tqdm(sorted(settled, key=lambda one: one[1]), "answers", disable=disable_tqdm):
            answers[place] = self._generator.generate(tokens, params, reuse_cache=True).text
            self.cache_hook.add_partial("generate_until", asked[place][1:], answers[place])
        return [answers[place] for place in range(len(asked))]

    def _question(self, context: str, options: Mapping[str, Any]) -> tuple[list[int], SamplingParams]:
        params = sampling_params(options, self._seed)
        room = self.max_length - params.max_tokens
        if room < 1:
            raise ConfigError(
                f"an answer may have {params.max_tokens} tokens and the context holds {self.max_length}; "
                "raise max_length in --model_args, or lower max_gen_toks in --gen_kwargs."
            )
        tokens = self.tok_encode(context)
        self._cut_short += len(tokens) > room
        return tokens[-room:], params

    def _tell_cuts(self) -> None:
        if self._cut_short:
            log.warning("%d contexts are too long: their beginnings are left out", self._cut_short)
        self._cut_short = 0


def sampling_params(options: Mapping[str, Any], seed: int = 0) -> SamplingParams:
    """A task's generation settings as ours. Raises ConfigError for one that has no counterpart, by name."""
    given = dict(normalize_gen_kwargs(dict(options), ANSWER_TOKENS))
    known = (*SAMPLING, "do_sample", "temperature", "num_beams", "until", "max_gen_toks")
    for name in given:
        if name not in known:
            raise ConfigError(suggest("generation setting", name, known))
    if given.get("num_beams", 1) != 1:
        raise ConfigError("num_beams is not 1: beam search is none of the ways in which answers are sampled here.")
    numbers: dict[str, Any] = {name: SAMPLING[name](given[name]) for name in SAMPLING if name in given}
    return SamplingParams(
        temperature=float(given.get("temperature", 1.0)) if given["do_sample"] else 0.0,
        max_tokens=given["max_gen_toks"],
        stop=tuple(stop for stop in given["until"] if stop),
        **{"seed": seed} | numbers,
    )
