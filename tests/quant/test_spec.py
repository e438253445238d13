from __future__ import annotations

import pytest

from specdecodes.errors import QuantError
from specdecodes.quant.spec import SCHEMES, Rules, find_scheme


@pytest.mark.parametrize(
    ("path", "scheme"),
    [
        ("layers.3.self_attn.q_proj", "hqq4"),
        ("layers.3.mlp.down_proj", "hqq8:g128"),
        ("layers.0.mlp.down_proj", None),
        ("layers.10.mlp.up_proj", "hqq4"),
        ("layers.2.mlp.up_proj", "int4"),
        ("layers.2.mlp.down_proj", "int4"),
    ],
)
def test_the_last_match_decides(path: str, scheme: str | None) -> None:
    rules = Rules.parse("hqq4+down_proj=hqq8:g128+layers.0=none+layers.[12].mlp=int4")
    found = rules.scheme_of(path)
    assert (found and str(found)) == scheme


def test_names_match_whole() -> None:
    rules = Rules.parse("none+proj=hqq4+layers.1=hqq4+*_proj=int8+mlp=none")
    assert rules.scheme_of("layers.11.mlp.down_proj") is None
    assert str(rules.scheme_of("layers.11.self_attn.q_proj")) == "int8"


@pytest.mark.parametrize("text", ["none", "hqq4", "hqq4:g128", "hqq4+down_proj=none", "w4a4@reference+layers.0=int8"])
def test_rules_are_spelled_as_they_were_read(text: str) -> None:
    assert str(Rules.parse(text)) == text
    assert Rules.parse(str(Rules.parse(text))) == Rules.parse(text)
    assert bool(Rules.parse(text)) == (text != "none")


def test_the_usual_group_is_not_spelled() -> None:
    assert str(find_scheme("hqq4:g64")) == "hqq4"
    assert str(find_scheme("int8:g64")) == "int8:g64"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("hqq44", "did you mean 'hqq4'"),
        ("hqq4+down_proj=hig4", "did you mean 'higgs4'"),
        ("int8+None", "unknown quantization scheme 'None'; did you mean 'none'"),
        ("", "unknown quantization scheme ''"),
        ("hqq4:128", "write the group as in hqq4:g128"),
        ("hqq4:g0", "write the group as in"),
        ("nvfp4:g64", "nvfp4 has groups of 16, by definition; write nvfp4 alone"),
        ("w8a8:g64", "w8a8 has one scale for each output"),
        ("=hqq4", "names no linear"),
        ("none:g64", "unknown quantization scheme 'none:g64'|unknown quantization scheme 'none'"),
    ],
)
def test_what_cannot_be_read_is_one_clear_error(text: str, words: str) -> None:
    with pytest.raises(QuantError, match=words):
        Rules.parse(text)


def test_bits_of_a_format_count_its_scales() -> None:
    """The published sizes: MXFP4 4.25 and NVFP4 4.5 bits a weight."""
    bits = {name: scheme.bits_per_weight(4096) for name, scheme in SCHEMES.items()}
    assert (bits["mxfp4"], bits["nvfp4"], bits["hqq4"], bits["hqq2"], bits["higgs3"]) == (4.25, 4.5, 4.5, 2.5, 3.25)
    assert 8 < bits["int8"] < 8.01
