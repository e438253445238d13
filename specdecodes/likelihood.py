"""How likely the target finds given tokens.

Requests of a batch are laid out as a forest: tokens that several of them begin with are run once, and each row sees
its own ancestors alone. A batch is one pass over the weights, however many requests it answers, and what its first
request leaves in the cache serves the next batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from specdecodes.decode import finite
from specdecodes.engine.runner import ModelRunner
from specdecodes.errors import ContextOverflowError


@dataclass(frozen=True)
class ScoreRequest:
    """`tokens[first:]` are scored, each as what follows all tokens before it; `first` is 1 or more."""

    tokens: tuple[int, ...]
    first: int = 1

    @property
    def inputs(self) -> tuple[int, ...]:
        """The tokens that the model has to read: nothing comes after the last."""
        return self.tokens[:-1]


@dataclass(frozen=True)
class Likelihood:
    """Of each scored token: its log-probability in nats, and whether the target finds no other likelier."""

    logprobs: tuple[float, ...]
    likeliest: tuple[bool, ...]

    @property
    def total(self) -> float:
        """Nats of all scored tokens together."""
        return sum(self.logprobs)


def batches(requests: Sequence[ScoreRequest], most: int | None, room: int) -> Iterator[list[int]]:
    """Places of `requests` in batches of at most `most` requests (None: any number) and `room` rows, those that begin
    alike beside each other. Raises ContextOverflowError for a request that does not fit alone."""
    order = sorted(range(len(requests)), key=lambda place: requests[place].tokens)
    batch: list[int] = []
    rows, before = 0, tuple[int, ...]()
    for place in order:
        inputs = requests[place].inputs
        if len(inputs) > room:
            raise ContextOverflowError(
                f"a text to score has {len(inputs) + 1} tokens and the context holds {room}; "
                "cut it or raise max_length."
            )
        added = len(inputs) - shared_length(before, inputs)
        if batch and (len(batch) == most or rows + added > room):
            yield batch
            batch, rows, added = [], 0, len(inputs)
        batch.append(place)
        rows, before = rows + added, inputs
    if batch:
        yield batch


def shared_length(ours: Sequence[int], theirs: Sequence[int]) -> int:
    """Tokens that two sequences begin with alike."""
    pairs = zip(ours, theirs, strict=False)
    return next((place for place, (one, other) in enumerate(pairs) if one != other), min(len(ours), len(theirs)))


class Forest:
    """The inputs of `requests` behind their first `kept` tokens, which all share, each node before its descendants.

    Tokens that a request begins with like the one before it are run once. `paths[i]`: the nodes of request i; those of
    the first come first. `ends[j]`: the node behind the last descendant of node j.
    """

    def __init__(self, requests: Sequence[ScoreRequest], kept: int) -> None:
        self.tokens: list[int] = []
        self.depths: list[int] = []
        self.ends: list[int] = []
        self.paths: list[list[int]] = []
        path, before = list[int](), tuple[int, ...]()
        for request in requests:
            inputs = request.inputs[kept:]
            shared, first = shared_length(before, inputs), len(self.tokens)
            self._leave(path[shared:])
            self.tokens += inputs[shared:]
            self.depths += range(shared, len(inputs))
            self.ends += [0] * (len(inputs) - shared)
            path, before = [*path[:shared], *range(first, len(self.tokens))], inputs
            self.paths.append(path)
        self._leave(path)

    def _leave(self, nodes: Sequence[int]) -> None:
        """No more descendants of `nodes` will come."""
        for node in nodes:
            self.ends[node] = len(self.tokens)


def likelihoods(
    target: ModelRunner,
    requests: Sequence[ScoreRequest],
    on_logits: Callable[[Tensor], None] | None = None,
) -> list[Likelihood]:
    """Score one batch behind the committed rows, with which all `requests` begin and before whose end none is scored.

    Commits the inputs of the first request. `on_logits` is given the raw logits [n, vocab] of all rows in order. Raises
    NumericsError on logits that are not numbers.
    """
    kept = target.cache.length
    forest = Forest(requests, kept)
    scored = [
        (path[place - 1 - kept], request.tokens[place])
        for request, path in zip(requests, forest.paths, strict=True)
        for place in range(request.first, len(request.tokens))
    ]
    nodes, tokens = torch.tensor(scored, dtype=torch.int64, device=target.device).reshape(-1, 2).unbind(1)
    logprobs = torch.zeros(len(scored))
    likeliest = torch.zeros(len(scored), dtype=torch.bool)
    laid_out = (forest.tokens, forest.depths, forest.ends)
    nodes_run = [torch.tensor(values, device=target.device) for values in laid_out]
    start = 0
    for scores in target.branches(*nodes_run):
        stop = start + scores.logits.shape[0]
        finite(scores, torch.arange(stop - start, device=target.device))
        here = (nodes >= start) & (nodes < stop)
        rows = scores.logits.float().log_softmax(-1)[nodes[here] - start]
        logprobs[here.cpu()] = rows.gather(1, tokens[here, None]).squeeze(1).cpu()
        likeliest[here.cpu()] = (rows.argmax(-1) == tokens[here]).cpu()
        if on_logits is not None:
            on_logits(scores.logits)
        start = stop
    target.cache.commit(len(forest.paths[0]))
    counts = [len(request.tokens) - request.first for request in requests]
    pieces = zip(logprobs.split(counts), likeliest.split(counts), strict=True)
    return [Likelihood(tuple(nats.tolist()), tuple(best.tolist())) for nats, best in pieces]
