"""The loop: draft a tree, verify it in one pass of the target, keep what the target would have said itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch

from specdecodes.drafters import Drafter
from specdecodes.engine.layers import Traffic
from specdecodes.engine.runner import ModelRunner, Scores
from specdecodes.engine.timing import PhaseClock
from specdecodes.errors import NumericsError
from specdecodes.sampling import Sampler
from specdecodes.stats import Round
from specdecodes.verify import Cut, Verdict, verify

LogitsHook = Callable[[torch.Tensor], None]


def decode(
    target: ModelRunner, drafter: Drafter, sampler: Sampler, root: int, cut: Cut, on_logits: LogitsHook | None = None
) -> Iterator[Round]:
    """Rounds of a request whose prompt is committed and whose first token is `root`, until `cut` gives a reason to
    stop.

    After every round the cache holds all tokens but the last emitted one. Raises NumericsError on NaN logits.
    """
    clock, reason = PhaseClock(target.device), None
    while reason is None:
        length, traffic = target.cache.length, target.traffic
        with clock("draft"):
            tree = drafter.propose(root)
        with clock("target"):
            scores = target.score(tree)
        with clock("verify"):
            choices = sampler.choices(scores.logits, tree, length)
            verdict = verify(tree, choices, _flags(scores))
            count, reason = cut(verdict.tokens)
            verdict = verdict.cut(count)
            path, said = verdict.on(target.device)
            _check(verdict, scores, path)
        with clock("commit"):
            target.cache.keep(path)
            sampler.observe(said)
            drafter.accept(tree, verdict, scores)
        if on_logits is not None:
            on_logits(scores.logits[path])
        root = verdict.tokens[-1]
        yield _round(verdict, tree.count_by_depth(), drafter, length, clock.lap(), target.traffic - traffic)


def finite(scores: Scores, rows: torch.Tensor) -> None:
    """Raise NumericsError when the logits of `rows` are not numbers. One host sync."""
    _insist(bool(scores.logits[rows].isfinite().all()))


def reads_along(device: torch.device) -> bool:
    """Whether the host had better ask `device` for everything at once, since it waits for each answer. A CPU looks at
    the path's logits alone, which are few of all."""
    return device.type != "cpu"


def _flags(scores: Scores) -> torch.Tensor | None:
    """Whether the logits of each row are numbers, to be read along with the verdict."""
    return scores.logits.isfinite().all(-1) if reads_along(scores.logits.device) else None


def _check(verdict: Verdict, scores: Scores, path: torch.Tensor) -> None:
    """`finite` for the path, by what was read along if it was."""
    if verdict.finite:
        _insist(all(verdict.finite))
    else:
        finite(scores, path)


def _insist(numbers: bool) -> None:
    if not numbers:
        raise NumericsError(
            "the target's logits are NaN or infinite: the checkpoint's weights are broken, or its dtype overflows; "
            "try --dtype bf16 or fp32, or download the checkpoint again."
        )


def _round(
    verdict: Verdict,
    proposed: tuple[int, ...],
    drafter: Drafter,
    length: int,
    seconds: dict[str, float],
    traffic: Traffic,
) -> Round:
    draft, target = seconds.get("draft", 0.0), seconds.get("target", 0.0)
    phases = {
        "draft": draft,
        "target": max(0.0, target - traffic.wait_seconds),
        "wait": min(target, traffic.wait_seconds),
        "overhead": max(0.0, seconds["total"] - draft - target),
    }
    return Round(
        tokens=verdict.tokens,
        proposed=sum(proposed),
        accepted=verdict.accepted,
        proposed_by_depth=proposed,
        levels=drafter.levels,
        seconds=phases,
        bytes_streamed=traffic.bytes_read,
        read_seconds=traffic.read_seconds,
        committed=length,
        middles=drafter.middles,
    )
