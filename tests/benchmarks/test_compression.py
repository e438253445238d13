"""Compression held off and on: the arms, their ratios within a prompt, and what `auto` makes of it."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from benchmarks import compression


def test_every_method_has_the_switch_off_and_on_and_nothing_else_differs() -> None:
    made = compression.arms("a/model", "500MB")
    assert list(made) == ["vanilla off", "vanilla on", "subspec_sd off", "subspec_sd on"]
    assert {(one.method, one.memory.compress) for one in made.values()} == {
        (method, how) for method in compression.METHODS for how in ("off", "on")
    }
    assert {(one.memory.device, one.tree, one.exact) for one in made.values()} == {("500MB", compression.TREE, False)}


def test_a_round_is_held_against_the_one_of_the_same_prompt() -> None:
    rounds = [{"vanilla on": {"round_s": on}, "vanilla off": {"round_s": off}} for on, off in ((2.0, 3.0), (1.0, 1.0))]
    assert compression.faster(rounds, "vanilla")["all"] == [1.5, 1.0]


def test_other_tokens_are_no_comparison(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = SimpleNamespace(model="a/model", device_memory="500MB", plain_tokens=8, tokens=16, rounds=2)
    monkeypatch.setattr(compression, "in_turn", lambda *given, **more: {"rounds": [], "same_tokens": [True, False]})
    with pytest.raises(RuntimeError, match="different tokens"):
        compression.measure(asked)  # type: ignore[arg-type]


def test_what_auto_chooses_is_told_with_the_speeds_that_were_weighed(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    others = [SimpleNamespace(what="streamed layers compressed", tokens_per_second=2.0), SimpleNamespace(what="a ring")]

    def plan_for(pipeline: object) -> SimpleNamespace:
        asked.append(pipeline.memory.compress)  # type: ignore[attr-defined]
        predicted = SimpleNamespace(link_gbps=1.9, tokens_per_second=2.5, round_s=0.4)
        return SimpleNamespace(compression=None, predicted=predicted, rejected=others)

    monkeypatch.setattr(compression, "plan_for", plan_for)
    found = compression.choice(compression.arms("a/model", "500MB")["subspec_sd off"])
    assert asked == ["auto"] and not found["compresses"]
    assert found["other"] == {"streamed layers compressed": 2.0}
