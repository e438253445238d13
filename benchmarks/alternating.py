"""What scripts share that let several arms answer the same prompts in turn."""

from __future__ import annotations

import signal
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from specdecodes.benchmark.questions.mt_bench import BUNDLED
from specdecodes.benchmark.questions.sources import question, read_samples
from specdecodes.benchmark.results.intervals import speedup_interval
from specdecodes.generator import Generator
from specdecodes.sampling import SamplingParams
from specdecodes.stats import PHASES, Generation, summarize

FIGURES = (
    "new_tokens decode_tokens_per_second tokens_per_second tau tokens_per_round rounds plain_rounds draft_step_s "
    "draft_levels time_to_first_token_s phase_seconds bytes_per_round bytes_streamed link_gbps link_utilization "
    "bound_tokens_per_second acceptance_per_level"
)


Prompt, Answer = TypeVar("Prompt"), TypeVar("Answer")


def questions() -> list[list[dict[str, str]]]:
    """The bundled questions in MT-Bench's format, as messages."""
    return [[{"role": "user", "content": sample.turns[0]}] for sample in read_samples(BUNDLED, question)]


def alternate(
    arms: dict[str, Generator],
    prompts: Sequence[list[dict[str, str]]],
    params: SamplingParams,
    *,
    tokens: Mapping[str, int],
    warm: int,
    before: Callable[[str], None] = lambda name: None,
) -> list[dict[str, Generation]]:
    """What pipelines answer in turn, see `take_turns`. `tokens` limits the answers of the arms that it names; `before`
    is called with an arm's name ahead of each of its answers."""

    def ask(name: str, prompt: list[dict[str, str]]) -> Generation:
        before(name)
        return arms[name].generate(prompt, replace(params, max_tokens=tokens.get(name, params.max_tokens)))

    return take_turns(list(arms), prompts, ask, lambda answer: answer.decode_tokens_per_second, warm=warm)


def take_turns(
    arms: Sequence[str],
    prompts: Sequence[Prompt],
    ask: Callable[[str, Prompt], Answer],
    speed: Callable[[Answer], float],
    *,
    warm: int,
) -> list[dict[str, Answer]]:
    """Every prompt's answers by arm, in an order that turns around each time; the first `warm` prompts are left out.

    Ctrl-C, or a kill, ends it early once a prompt counts: what was measured is returned.
    """
    rounds: list[dict[str, Answer]] = []
    killed = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        for number, prompt in enumerate(prompts):
            answers = {name: ask(name, prompt) for name in (arms if number % 2 else reversed(arms))}
            speeds = (f"{name} {speed(answers[name]):.2f}" for name in arms)
            print(f"prompt {number}: {', '.join(speeds)} tokens/s", flush=True)
            if number >= warm:
                rounds.append({name: answers[name] for name in arms})
    except KeyboardInterrupt:
        if not rounds:
            raise
        print(f"stopped; what {len(rounds)} prompts showed is kept", file=sys.stderr)
    finally:
        signal.signal(signal.SIGTERM, killed)
    return rounds


def figures(answers: Sequence[Generation]) -> dict[str, Any]:
    """The terms of some answers, and the seconds and draft levels of their mean round."""
    summary = summarize(answers)
    found = {name: summary[name] for name in FIGURES.split()}
    rounds = max(summary["rounds"], 1)
    seconds = {f"round_{phase}_s": summary["phase_seconds"][phase] / rounds for phase in PHASES}
    levels = {"levels_per_round": summary["draft_levels"] / rounds, "round_s": sum(seconds.values())}
    return found | seconds | levels


def link_used(row: Mapping[str, Any], link: float) -> float:
    """The share of the link's own speed, measured apart, at which bytes arrived over whole rounds; 0 where unknown."""
    seconds = (row["new_tokens"] - 1) / row["decode_tokens_per_second"] if row["decode_tokens_per_second"] else 0.0
    return row["bytes_per_round"] * row["rounds"] / seconds / 1e9 / link if seconds and link else 0.0


def medians(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Medians of every plain number over the rows."""
    return {
        name: statistics.median(row[name] for row in rows)
        for name, value in rows[0].items()
        if isinstance(value, int | float)
    }


def paired(ones: Sequence[float], others: Sequence[float]) -> dict[str, Any]:
    """Ratios of what was measured in the same round: all of them, their median, and the middle half."""
    ratios = [one / other for one, other in zip(ones, others, strict=True)]
    low, _, high = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
    return {"median": statistics.median(ratios), "middle_half": [low, high], "all": ratios}


Row = Mapping[str, Any]


def faster(ones: Sequence[Row], others: Sequence[Row]) -> dict[str, Any]:
    """How many times as fast `ones` decoded as `others` did: all tokens over all seconds, and the 95% interval of that
    over prompts drawn again (None for a single one). Unlike a median of ratios it is no worse for short answers."""
    spent = [_decoded(rows) for rows in (ones, others)]
    one, other = (sum(tokens) / sum(seconds) for tokens, seconds in spent)
    interval = speedup_interval(*spent[0], *spent[1])
    return {"ratio": one / other, "interval": interval and list(interval)}


def faster_than_best(rounds: Sequence[Mapping[str, Row]], first: str) -> dict[str, Any]:
    """`first` over the fastest other arm. Who is fastest of several is in part who was lucky in these rounds: so the
    other is chosen in every second round and held against `first` in those between, and the other way round.
    `hindsight` is the ratio to the one that was fastest in all of them."""
    halves = rounds[::2], rounds[1::2] or rounds
    ones, others, chosen = [], [], []
    for seen, judged in (halves, halves[::-1]):
        chosen.append(_fastest(seen, first))
        ones += [answers[first] for answers in judged]
        others += [answers[chosen[-1]] for answers in judged]
    best = _fastest(rounds, first)
    hindsight = faster([answers[first] for answers in rounds], [answers[best] for answers in rounds])
    return {"chosen": chosen, **faster(ones, others), "hindsight": {"other": best, **hindsight}}


def _fastest(rounds: Sequence[Mapping[str, Row]], first: str) -> str:
    """The arm besides `first` of most tokens a second over all `rounds`."""
    speeds = {}
    for name in rounds[0].keys() - {first}:
        tokens, seconds = _decoded([answers[name] for answers in rounds])
        speeds[name] = sum(tokens) / sum(seconds)
    return max(sorted(speeds), key=lambda name: speeds[name])


def _decoded(rows: Sequence[Row]) -> tuple[list[float], list[float]]:
    """Tokens behind the prompt's own, and their seconds, row by row."""
    tokens = [row["new_tokens"] - 1 for row in rows]
    return tokens, [n / row["decode_tokens_per_second"] if n else 0.0 for n, row in zip(tokens, rows, strict=True)]


def agree(answers: Sequence[tuple[int, ...]]) -> bool:
    """Whether all answers are equal as far as the shortest goes."""
    shortest = min(len(answer) for answer in answers)
    return len({answer[:shortest] for answer in answers}) == 1
