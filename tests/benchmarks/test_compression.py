"""Every way to compress beside none: the arms, their ratios within a prompt, and what `auto` makes of it."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from benchmarks import compression


def test_every_method_has_each_of_its_ways_and_nothing_else_differs() -> None:
    made = compression.arms("a/model", "500MB")
    assert list(made) == ["vanilla off", "vanilla alone", "subspec_sd off", "subspec_sd alone", "subspec_sd on"]
    assert all(name == f"{one.method} {one.memory.compress}" for name, one in made.items())
    assert {(one.memory.device, one.tree, one.exact) for one in made.values()} == {("500MB", compression.TREE, False)}


def test_a_round_is_held_against_the_one_of_the_same_prompt() -> None:
    times = ((2.0, 3.0), (1.0, 1.0))
    rounds = [{"vanilla alone": {"round_s": one}, "vanilla off": {"round_s": off}} for one, off in times]
    assert compression.faster(rounds, "vanilla alone")["all"] == [1.5, 1.0]


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
        kept = (1, 2)
        way = SimpleNamespace(kind="beside")
        return SimpleNamespace(compression=way, kept=kept, predicted=predicted, rejected=others)

    monkeypatch.setattr(compression, "plan_for", plan_for)
    found = compression.choice(compression.arms("a/model", "500MB")["subspec_sd off"])
    assert asked == ["auto"] and (found["compresses"], found["kept"]) == ("beside", 2)
    assert found["other"] == {"streamed layers compressed": 2.0}
