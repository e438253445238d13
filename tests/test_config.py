"""Settings are checked when they are made, and read from text by their own type."""

from __future__ import annotations

import json
from dataclasses import FrozenInstanceError

import pytest

from specdecodes.config import Draft, Memory, Pipeline, Target, Tree, apply_overrides, known_keys, override, to_dict
from specdecodes.errors import ConfigError
from specdecodes.sampling import SamplingParams

PLAIN = Pipeline("subspec_sd", Target("somewhere"))


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("tree.depth", "8", 8),
        ("tree.adaptive", "off", False),
        ("compile", "true", True),
        ("exact", "none", None),
        ("exact", "yes", True),
        ("draft.temperature", "1", 1.0),
        ("draft.model", "some/model", "some/model"),
        ("draft.model", "none", None),
        ("draft.kv", "int8", "int8"),
        ("memory.device", "8GiB", "8GiB"),
        ("memory.host", "1000", 1000),
        ("target.dtype", "bf16", "bf16"),
        ("middle.tree.nodes", "20", 20),
        ("middle.middle", "none", None),
        ("sampling.stop", "a, b", ("a", "b")),
        ("sampling.stop", '["a, b", "\\n"]', ("a, b", "\n")),
        ("sampling.stop", "none", ()),
        ("method", "vanilla", "vanilla"),
    ],
)
def test_a_text_is_read_by_the_type_of_its_setting(key: str, text: str, value: object):
    changed = to_dict(override(PLAIN, key, text))
    for part in key.split("."):
        changed = changed[part]
    assert changed == value
    assert type(changed) is type(value)


@pytest.mark.parametrize(("key", "value"), [("tree.depth", 8), ("exact", True), ("draft.temperature", 1)])
def test_a_value_of_the_right_type_is_taken_as_it_is(key: str, value: object):
    assert override(PLAIN, key, value) == override(PLAIN, key, str(value))


@pytest.mark.parametrize(
    ("assignment", "words"),
    [
        ("tree.dpth=8", ("tree.dpth", "did you mean 'tree.depth'")),
        ("depth=8", ("did you mean tree.depth",)),
        ("tree=8", ("tree.width", "tree.depth")),
        ("tree.depth.more=8", ("tree.depth",)),
        ("tree.depth", ("key.path=value",)),
        ("tree.width=1000000", ("tree.width times tree.depth must be 16384 or less, not 16000000",)),
        ("tree.nodes=9999999", ("tree.nodes must be 4096 or less, not 9999999",)),
        ("tree.depth=deep", ("'deep'", "whole number")),
        ("tree.depth=1.5", ("'1.5'", "whole number")),
        ("exact=perhaps", ("true or false or none",)),
        ("sampling.temperature=hot", ("a number",)),
        ('sampling.stop=["a', ("a list",)),
        ("tree.depth=0", ("tree.depth", "1 or more")),
        ("tree.nodes=1", ("tree.nodes",)),
        ("draft.temperature=0", ("draft.temperature",)),
        ("target.dtype=bfloat16", ("did you mean 'bf16'",)),
        ("memory.device=8GX", ("8GX", "8GiB")),
        ("memory.device=0", ("memory.device",)),
        ("sampling.top_p=7", ("top_p",)),
        ("max_length=1", ("max_length",)),
        ("seed=-1", ("seed",)),
        ("target.model=", ("target.model",)),
        ("draft.kv=int4", ("draft.kv", "did you mean 'int8'")),
    ],
)
def test_a_wrong_setting_is_refused_in_words_that_help(assignment: str, words: tuple[str, ...]):
    with pytest.raises(ConfigError) as refusal:
        apply_overrides(PLAIN, [assignment])
    assert all(word in str(refusal.value) for word in words), refusal.value


@pytest.mark.parametrize(("key", "value"), [("tree.depth", True), ("tree.depth", 1.5), ("exact", 1), ("method", None)])
def test_a_value_of_another_type_is_refused(key: str, value: object):
    with pytest.raises(ConfigError, match=key):
        override(PLAIN, key, value)


def test_overrides_apply_in_turn_and_leave_the_original_alone():
    changed = apply_overrides(PLAIN, ["tree.depth=3", "tree.width=2", "tree.depth=5"])
    assert (changed.tree.depth, changed.tree.width) == (5, 2)
    assert PLAIN.tree == Tree()
    assert changed.draft is PLAIN.draft


def test_settings_cannot_be_changed_in_place():
    with pytest.raises(FrozenInstanceError):
        PLAIN.seed = 1  # type: ignore[misc]


def test_every_known_key_can_be_set_to_what_it_is():
    pipeline = Pipeline(
        "classic_sd",
        Target("a", revision="b"),
        Draft("c"),
        memory=Memory("1GiB", 2**30),
        sampling=SamplingParams(stop=("x",)),
    )
    for key in known_keys(pipeline):
        value: object = to_dict(pipeline)
        for part in key.split("."):
            assert isinstance(value, dict)
            value = value[part]
        assert override(pipeline, key, value) == pipeline
        assert override(pipeline, key, ",".join(value) if isinstance(value, tuple) else str(value)) == pipeline


def test_the_resolved_settings_survive_json():
    tree = {"width": 4, "depth": 16, "nodes": 64, "adaptive": True}
    assert json.loads(json.dumps(to_dict(PLAIN)))["tree"] == tree


def test_budgets_are_known_in_bytes():
    memory = Memory(device="1.5GiB", host=10**9)
    assert (memory.device_bytes, memory.host_bytes) == (3 * 2**29, 10**9)
    assert Memory().device_bytes is None
