from __future__ import annotations

import pytest

from specdecodes.errors import QuantError
from specdecodes.quant.spec import Rules, find_scheme


def test_the_first_match_decides() -> None:
    rules = Rules((("mlp.down_proj", "none"), ("mlp.*", "hqq3"), ("self_attn.*", "hqq4")))
    found = {path: rules.scheme_of(path) for path in ("mlp.down_proj", "mlp.up_proj", "self_attn.q_proj", "other")}
    assert {path: scheme and scheme.name for path, scheme in found.items()} == {
        "mlp.down_proj": None,
        "mlp.up_proj": "hqq3",
        "self_attn.q_proj": "hqq4",
        "other": None,
    }


def test_a_name_is_a_rule_for_all() -> None:
    scheme = Rules.of("hqq4").scheme_of("anything")
    assert scheme is not None and scheme.bits == 4
    assert Rules.of("none").scheme_of("anything") is None
    rules = Rules((("*", "hqq2"),))
    assert Rules.of(rules) is rules


def test_unknown_schemes_are_fatal_and_name_a_near_one() -> None:
    with pytest.raises(QuantError, match="did you mean 'hqq4'"):
        Rules((("*", "hqq44"),))
    with pytest.raises(QuantError, match="Known: .*hqq4"):
        find_scheme("gptq")
