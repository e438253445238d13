"""Settings side by side: what an arm is, the ratios of a round, and both scripts on a tiny model."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks import predicted, settings, streamed
from benchmarks.alternating import alternate, faster, faster_than_best, paired
from specdecodes.config import Pipeline, Target
from specdecodes.errors import ConfigError
from specdecodes.folders import cache_folder
from specdecodes.sampling import SamplingParams
from specdecodes.stats import Generation, Round

SMALL = "--set compile=off --set draft.quant=hqq4:g32 --set tree.depth=3 --set tree.nodes=8 --device-memory 2GiB"


def test_an_arm_adds_its_settings_to_those_of_all():
    base = Pipeline("subspec_sd", Target("a/model"), max_length=64)
    assert settings.named("plain:method=vanilla,tree.depth=3", base)[1].tree.depth == 3
    assert settings.named("adaptive:", base) == ("adaptive", base)
    for text in ("method=vanilla", ":tree.depth=3", "one:tree.deep=3"):
        with pytest.raises(ConfigError):
            settings.named(text, base)


def test_ratios_are_within_a_round():
    found = paired([2.0, 9.0, 4.0], [1.0, 3.0, 4.0])
    assert (found["median"], found["all"]) == (2.0, [2.0, 3.0, 1.0])
    assert paired([3.0], [2.0])["middle_half"] == [1.5, 1.5]


def rows(*speeds: float, tokens: int = 11) -> list[dict[str, float]]:
    return [{"new_tokens": tokens, "decode_tokens_per_second": speed} for speed in speeds]


def test_all_tokens_over_all_seconds_and_how_far_that_may_be_off():
    """Ten tokens at 10 and 10 at 30 a second are 20 in 4/3 seconds."""
    found = faster(rows(10.0, 30.0), rows(5.0, 5.0))
    assert found["ratio"] == pytest.approx(3.0) and found["interval"] == pytest.approx([2.0, 6.0])
    assert faster(rows(3.0), rows(2.0, tokens=3)) == {"ratio": pytest.approx(1.5), "interval": None}
    even = faster(rows(*[4.0, 5.0] * 20), rows(*[4.1, 5.1] * 20))
    assert 0.97 < even["interval"][0] < even["interval"][1] < 1.0, "what makes a prompt slow for both tells nothing"


def test_the_best_of_several_is_not_chosen_by_its_own_luck():
    """Of four arms as fast as the first, one is lucky in each round: the fastest of all is ahead by luck alone."""
    rounds = []
    for lucky in (1, 2, 1, 3, 1, 4, 2, 3):
        speeds = [10.0, *(14.0 if number == lucky else 9.0 for number in range(1, 5))]
        rounds.append(dict(zip("abcde", rows(*speeds), strict=True)))
    found = faster_than_best(rounds, "a")
    assert found["hindsight"]["other"] == "b" and found["hindsight"]["ratio"] < 0.97
    assert found["chosen"] == ["b", "d"] and found["ratio"] > found["hindsight"]["ratio"]


class Answering:
    """Answers at once, and is interrupted at its answer number `last`."""

    def __init__(self, last: int) -> None:
        self._left = last

    def generate(self, prompt: list[dict[str, str]], params: SamplingParams) -> Generation:
        self._left -= 1
        if self._left == 0:
            raise KeyboardInterrupt
        return Generation("", (5,), 3, 0, (), {"prefill": 1.0}, 2.0, 1.0, 0, "length")


@pytest.mark.parametrize(("last", "kept"), [(4, 2), (3, 1)])
def test_what_was_measured_before_an_interruption_is_kept(last: int, kept: int, capsys):
    arms = {"one": Answering(99), "other": Answering(last)}
    assert len(alternate(arms, [[]] * 6, SamplingParams(), tokens={}, warm=1)) == kept
    assert "kept" in capsys.readouterr().err


def test_an_interruption_before_an_answer_counts_ends_it():
    with pytest.raises(KeyboardInterrupt):
        alternate({"one": Answering(2)}, [[]] * 6, SamplingParams(), tokens={}, warm=1)


@pytest.fixture
def run(monkeypatch, tmp_path, tiny_checkpoint: Callable[..., Path]):
    kernels, own = cache_folder() / "kernels", tmp_path / "cache"
    own.mkdir()
    (own / "kernels").symlink_to(kernels)
    monkeypatch.setenv("SPECDECODES_CACHE", str(own))

    def run(script, *words: str) -> dict:
        out, settings = tmp_path / "receipt.json", [] if script is streamed else SMALL.split()
        common = ["--model", str(tiny_checkpoint("llama", "bf16")), "--max-length", "96", "--out", str(out)]
        monkeypatch.setattr(sys, "argv", [script.__name__, *common, *settings, *words])
        script.main()
        return json.loads(out.read_text())

    return run


def test_arms_answer_the_same_prompts_and_the_first_is_held_against_the_best_other(run, capsys):
    arms = ["--arm", "adaptive:", "--arm", "deep:tree.adaptive=off", "--arm", "plain:method=vanilla"]
    receipt = run(settings, *arms, "--rounds", "2", "--warm", "1", "--tokens", "8", "--plain-tokens", "4")
    assert list(receipt["medians"]) == ["adaptive", "deep", "plain"] and len(receipt["rounds"]) == 2
    assert receipt["ratios"]["adaptive"]["median"] == 1.0
    assert set(receipt["first_over_best_other"]["chosen"]) <= {"deep", "plain"}
    assert receipt["over_first"]["adaptive"]["ratio"] == 1.0 and len(receipt["over_first"]["deep"]["interval"]) == 2
    assert receipt["medians"]["deep"]["levels_per_round"] == 3
    assert receipt["medians"]["plain"]["new_tokens"] == 4
    assert "the fastest in hindsight" in capsys.readouterr().out


def test_methods_are_settings_too(run, capsys):
    """streamed.py: the first method is what the others are held against."""
    words = "--arms vanilla,subspec_sd --device-memory 1MiB --draft-quant hqq4:g32 --eager --rounds 1 --tokens 4"
    receipt = run(streamed, *words.split(), "--width", "2", "--depth", "3", "--nodes", "8")
    assert receipt["ratios"]["vanilla"]["median"] == 1.0 and len(receipt["rounds"]) == 1
    assert all({"disk_gbps", "link_used"} <= row.keys() for row in receipt["medians"].values())
    assert receipt["same_tokens"] == [True] and set(receipt["plans"]) == {"vanilla", "subspec_sd"}
    assert "subspec_sd" in capsys.readouterr().out


def test_plans_are_held_against_their_runs_block_by_block(run):
    options = ["--methods", "vanilla,subspec_sd", "--blocks", "2", "--prompts", "1", "--tokens", "16", "--forget"]
    receipt = run(predicted, *options)
    assert sorted((row["method"], row["block"]) for row in receipt["blocks"]) == [
        (method, block) for method in ("subspec_sd", "vanilla") for block in (0, 1)
    ]
    largest = max(abs(row["error"]) for row in receipt["methods"].values())
    assert receipt["largest_error"] == largest


def test_the_share_of_the_disks_own_speed_counts_whole_rounds():
    """A gigabyte in a round of a second, where the disk alone reads two; where nothing streams, there is no share."""
    seconds = {"draft": 0.25, "target": 0.25, "wait": 0.5, "overhead": 0.0}
    turn = Round(
        (6, 7), proposed=1, accepted=1, proposed_by_depth=(1,), levels=1, seconds=seconds, bytes_streamed=10**9
    )
    answer = Generation("", (5, 6, 7), 3, 0, (turn,), {"prefill": 1.0}, 2.0, 1.0, 0, "length")
    (row,) = settings.compared([{"streamed": answer, "resident": answer}], {"streamed": [2.0], "resident": [0.0]})[
        "rounds"
    ]
    assert row["streamed"]["link_used"] == pytest.approx(0.5) and row["streamed"]["disk_gbps"] == 2.0
    assert row["resident"]["link_used"] == 0.0


def test_what_a_plan_said_is_beside_what_was_measured() -> None:
    plan = SimpleNamespace(tokens_per_second=3.0, round_s=0.5)
    found = settings.expected(plan, {settings.SPEED: 2.0, "round_s": 1.0})  # type: ignore[arg-type]
    assert found["predicted_tokens_per_second_error"] == 0.5 and found["predicted_round_s_error"] == -0.5
    assert (found["predicted_tokens_per_second"], found["predicted_round_s"]) == (3.0, 0.5)
