"""The page is one file that needs nothing else, and says what was measured."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from specdecodes.benchmark.profile import FOLDER, TIMELINE
from specdecodes.benchmark.report import write_plates, write_report
from specdecodes.benchmark.report.arms import read_arms, shared
from specdecodes.benchmark.results.reading import find_results
from specdecodes.benchmark.results.records import ResultsError
from specdecodes.benchmark.trace import Timeline

from .conftest import OTHERS, QUESTIONS

VOID = {"meta", "br", "hr", "img", "link", "input"}


class Parsed(HTMLParser):
    """Tags must match; text and addresses are kept."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.words: list[str] = []
        self.addresses: list[str] = []
        self.feed(html)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag, attrs):
        self.addresses += [value for name, value in attrs if name in ("src", "href", "xlink:href", "data", "action")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        pass

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def page_of(*folders: Path) -> tuple[str, Parsed]:
    html = write_report(folders, folders[0] / "report.html").read_text(encoding="utf-8")
    return html, Parsed(html)


def test_the_page_needs_no_network(folder):
    html, parsed = page_of(folder("vanilla"), folder("subspec_sd"))
    assert parsed.addresses == []
    assert not re.search(r"https?://|//cdn|@import|url\(|<script|<iframe|<link", html)


def test_the_page_says_the_figures_of_the_summary(folder):
    plain, drafted = folder("vanilla"), folder("subspec_sd")
    _, parsed = page_of(plain, drafted)
    summary = find_results(drafted)["tiny"].summary
    for shown in (
        f"{summary['tokens_per_second']:.2f} tokens/s",
        f"τ = {summary['tau']:.2f}",
        f"draft levels {summary['draft_levels'] / summary['rounds']:.1f}",
        f"a draft level {summary['draft_step_s'] * 1e3:.1f} ms",
        f"{summary['tokens_per_round']:.2f}",
        f"link busy {summary['link_utilization']:.0%}",
        "1 of 2 layers stream from disk (direct reads): 1000 B a pass",
        "ask subspec_sd",
        summary["environment"]["packages"]["torch"],
    ):
        assert shown in parsed.text
    assert "subspec_sd said the same as vanilla, token for token: 16 tokens of 4 questions." in parsed.text


def test_only_what_all_answered_is_compared(folder):
    fewer = replace(QUESTIONS, samples=QUESTIONS.samples[:3])
    plain, other = folder("vanilla", QUESTIONS, OTHERS), folder("subspec_sd", fewer)
    chosen = shared(read_arms([plain, other]))
    assert {name: sorted(keys) for name, keys in chosen.items()} == {"tiny": ["0", "1", "2"]}
    _, parsed = page_of(plain, other)
    assert "3 questions of tiny" in parsed.text
    assert "left out: other" in parsed.text and "Runs answered different samples" in parsed.text


def test_several_benchmarks_are_pooled_and_listed(folder):
    _, parsed = page_of(folder("vanilla", QUESTIONS, OTHERS))
    assert "8 questions of other, tiny" in parsed.text and "By benchmark" in parsed.text


def test_one_method_twice_is_told_apart_by_its_folder(folder):
    arms = read_arms([folder("subspec_sd", name="a"), folder("subspec_sd", name="b"), folder("vanilla")])
    assert [arm.label for arm in arms] == ["subspec_sd (a)", "subspec_sd (b)", "vanilla"]
    assert [arm.colour for arm in arms] == [1, 2, 0]


def test_words_of_a_result_stay_words(folder):
    html, parsed = page_of(folder("vanilla", model="<script>alert(1)</script>"))
    assert "<script" not in html and "<script>alert(1)</script>" in parsed.text


@pytest.fixture
def profiled(folder) -> Path:
    out = folder("subspec_sd")
    round_ = Timeline(0.5, (("1", 0.0, 0.2),), (("0", 0.3, 0.4),), (), (("1", 0.0, 0.3),), ())
    (out / FOLDER).mkdir()
    (out / FOLDER / TIMELINE).write_text(json.dumps({"method": "subspec_sd", "round": round_.to_json()}))
    return out


def test_a_profile_beside_the_results_is_shown(profiled):
    _, parsed = page_of(profiled)
    assert "One round" in parsed.text and "layer 0 computes: 100 ms" in parsed.text


def test_nothing_answered_is_no_report(folder, tmp_path: Path):
    with pytest.raises(ResultsError, match="no finished sample"):
        write_report([folder("vanilla", fails="q")], tmp_path / "report.html")
    with pytest.raises(ResultsError, match="holds no results"):
        write_report([tmp_path / "nowhere"], tmp_path / "report.html")


def test_plates_are_written_for_papers(folder, profiled, tmp_path: Path):
    pytest.importorskip("matplotlib")
    written = write_plates([folder("vanilla"), profiled], tmp_path / "plates")
    names = {"speed", "token-time", "acceptance", "accepted", "over-time", "round-2"}
    assert {path.stem for path in written} == names
    assert all(path.read_bytes()[:4] == b"\x89PNG" for path in written)
