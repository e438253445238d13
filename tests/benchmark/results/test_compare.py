"""Runs side by side: ratios over the same samples, where answers part, and what makes a comparison unfair."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from specdecodes.benchmark.results.compare import compare, identity, part, pooled
from specdecodes.benchmark.results.reading import Results
from specdecodes.benchmark.results.records import ResultsError, SampleRecord

SETTINGS = {
    "pipeline": {"method": "vanilla", "memory": {"device": "1GiB"}, "tree": {"depth": 4}, "exact": None},
    "benchmark": {"name": "tiny", "sha256": "a" * 64},
}
FACTS = {"benchmark": "tiny", "method": "vanilla", "exact": True}
LABELS = ("vanilla", "subspec_sd")


@pytest.fixture
def records(answered):
    """`records(seconds)`: six samples of two turns; every other one is twice as long."""

    def make(seconds: float, **fields) -> tuple[SampleRecord, ...]:
        common = {"status": "done", "revision": "abc", "machine": "m", "peak_device_bytes": 100} | fields
        answers = [tuple(answered(4 + 3 * (n % 2), seconds=seconds * (1 + n % 2)) for _ in "ab") for n in range(6)]
        return tuple(SampleRecord(str(n), "c", (f"q{n}", "r"), answers=a, **common) for n, a in enumerate(answers))

    return make


def results(records, settings=None, **facts) -> Results:
    return Results(Path("somewhere"), settings or SETTINGS, FACTS | facts, tuple(records))


def with_tokens(record, turn, tokens, text="4 tokens"):
    answers = list(record.answers)
    answers[turn - 1] = replace(answers[turn - 1], tokens=tokens, text=text)
    return replace(record, answers=tuple(answers))


def test_the_ratio_is_of_sums_and_pairing_makes_its_interval_narrow(records):
    page = compare([results(records(2.0)), results(records(0.5))], LABELS)
    plain, fast = page.standings
    assert (plain.ratio, plain.ratio_interval) == (1.0, None)
    assert fast.ratio == pytest.approx(4)
    assert fast.ratio_interval == pytest.approx((4, 4))  # every sample is four times as fast
    low, high = fast.figures["tokens_per_second_interval"]  # though samples differ among themselves
    assert low < fast.figures["tokens_per_second"] < high
    assert page.samples == 6 and not page.warnings


def test_equal_tokens_are_counted(records):
    page = compare([results(records(2.0)), results(records(0.5))], LABELS)
    (same,) = page.identities
    assert (same.samples, same.tokens, same.partings) == (6, 2 * (3 * 4 + 3 * 7), ())


@pytest.mark.parametrize(
    ("turn", "tokens", "index", "base_token", "token"),
    [(1, (0, 1, 9, 3), 2, 2, 9), (2, (0, 1), 2, 2, None), (2, (0, 1, 2, 3, 4), 4, None, 4)],
)
def test_the_first_parting_is_found(records, turn, tokens, index, base_token, token):
    base = records(1.0)
    other = (with_tokens(base[0], turn, tokens, "4 tokeys"), *base[1:])
    found = part(base[0], other[0])
    assert (found.sample, found.turn, found.index, found.base_token, found.token) == (
        "0",
        turn,
        index,
        base_token,
        token,
    )
    assert (found.base_text, found.text) == ("4 tokens", "4 tokeys")
    whole = identity("x", base, other)
    assert whole.partings == (found,)
    assert whole.tokens == 66 - 8 + 4 * (turn - 1) + index


def test_long_texts_are_shown_where_they_part(records):
    base = with_tokens(records(1.0)[0], 1, (0, 1), "a" * 500 + "b" + "c" * 500)
    found = part(base, with_tokens(base, 1, (0, 2), "a" * 500 + "X" + "c" * 500))
    assert found.base_text == "a" * 20 + "b" + "c" * 39
    assert found.text == "a" * 20 + "X" + "c" * 39


def test_only_samples_that_all_answered_are_compared_and_that_is_said(records):
    fewer = [replace(r, status="failed", answers=(), error="e") if r.id == "2" else r for r in records(1.0)[:4]]
    page = compare([results(records(2.0)), results(fewer)], LABELS)
    assert page.samples == 3
    assert page.standings[0].figures["new_tokens"] == 2 * (4 + 7 + 7)
    said = "\n".join(page.warnings)
    assert "only the 3 that all answered" in said and "vanilla: 6; subspec_sd: 3" in said
    assert "failed samples are left out (vanilla: 0; subspec_sd: 1)" in said


def test_other_questions_under_the_same_name_are_not_compared(records):
    other = [replace(r, turns=("something else",)) for r in records(1.0)]
    with pytest.raises(ResultsError, match="no sample that all runs answered"):
        compare([results(records(1.0)), results(other)], LABELS)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"machine": "another"}, "different machines: vanilla: m; subspec_sd: another"),
        ({"revision": "def"}, "different code revisions: vanilla: abc; subspec_sd: def"),
        ({"revision": "abc+changes"}, "changes that no revision holds"),
    ],
)
def test_another_machine_or_revision_is_said(records, changed, words):
    page = compare([results(records(1.0)), results(records(1.0, **changed))], LABELS)
    assert any(words in warning for warning in page.warnings)


def test_other_prompts_budgets_and_arithmetic_are_said_and_the_method_s_own_settings_are_not(records):
    other = {
        "pipeline": {"method": "subspec_sd", "memory": {"device": "2GiB"}, "tree": {"depth": 9}, "exact": False},
        "benchmark": {"name": "tiny", "sha256": "b" * 64},
    }
    page = compare([results(records(1.0)), results(records(1.0), other, exact=False)], LABELS)
    assert list(page.warnings) == [
        "different questions: vanilla: aaaaaaaaaaaa; subspec_sd: bbbbbbbbbbbb",
        "different exact mode: vanilla: on; subspec_sd: off",
        "different memory.device: vanilla: 1073741824 bytes; subspec_sd: 2147483648 bytes",
    ]


def test_a_run_of_two_plans_is_said(records):
    page = compare([results(records(1.0)), results(records(1.0), earlier_plans=["2 of 4 layers resident"])], LABELS)
    assert list(page.warnings) == ["subspec_sd was resumed with another plan, so its figures mix two"]


def test_one_budget_in_other_words_is_the_same(records):
    settings = SETTINGS | {"pipeline": SETTINGS["pipeline"] | {"memory": {"device": 2**30}}}
    assert not compare([results(records(1.0)), results(records(1.0), settings)], LABELS).warnings


def test_several_benchmarks_are_taken_together(records):
    group = [results(records(2.0)), results(records(1.0))]
    parted = with_tokens(records(1.0)[0], 1, (7,))
    other = [group[0], results((parted, *records(1.0)[1:]))]
    settings = SETTINGS | {"benchmark": {"name": "second", "sha256": "b"}}
    page = pooled([group, [replace(run, settings=settings) for run in other]], LABELS)
    assert page.samples == 12
    assert 1.9 < page.standings[1].ratio < 2
    assert page.standings[0].figures["new_tokens"] == 2 * 66
    assert [parting.sample for parting in page.identities[0].partings] == ["second/0"]
