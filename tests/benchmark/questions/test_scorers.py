"""Right, wrong and malformed answers, made by hand, and what each scorer says to them."""

from __future__ import annotations

import sys

import pytest

from specdecodes.benchmark.questions import gpqa, human_eval, math_answer, spec_bench
from specdecodes.benchmark.questions.samples import Benchmark, Sample
from specdecodes.errors import ConfigError

MATH = [
    # reference, answer, correct, extracted
    ("18", "She makes 9 * 2 = $18 every day.", True, "18"),
    ("18", "So it is \\boxed{18} dollars.", True, "18"),
    ("18", "So it is \\boxed{\\$18.00}.", True, None),
    ("18", "9 eggs are left.\n#### 18", True, "18"),
    ("18", "\\boxed{18} is right, as 17 + 1 shows.", True, "18"),
    ("18", "First 18, then 19 more, so the answer is 37.", False, "37"),
    ("18", "\\boxed{81}", False, "81"),
    ("18", "I would have to think about that.", False, ""),
    ("18", "", False, ""),
    ("18", "\\boxed{", False, ""),
    ("18", "\\boxed{}", False, ""),
    ("1000", "The total is \\boxed{1,000}.", True, None),
    ("-3", "The answer is -3.", True, "-3"),
    ("025", "\\boxed{25}", True, "25"),
    ("204", "\\boxed{2040}", False, "2040"),
    ("\\frac{1}{2}", "Thus $x = \\boxed{0.5}$.", True, None),
    ("\\frac{1}{2}", "The answer is 1/2.", True, None),
    ("\\frac{1}{2}", "\\boxed{\\frac{1}{3}}", False, None),
    ("\\left( 3, \\frac{\\pi}{2} \\right)", "\\boxed{(3, \\pi/2)}", True, None),
    ("p - q", "\\boxed{-q + p}", True, None),
    ("p - q", "\\boxed{q - p}", False, None),
    ("11\\sqrt2", "$$\\boxed{\\sqrt{242}}$$", True, None),
    ("\\text{Evelyn}", "The student is \\boxed{\\text{Evelyn}}.", True, None),
    ("x \\in [-2,7]", "\\boxed{[-2,7]}", True, None),
]


@pytest.mark.parametrize(("reference", "answer", "correct", "extracted"), MATH)
def test_mathematical_answers(reference, answer, correct, extracted):
    pytest.importorskip("math_verify")
    verdict = math_answer.score(Sample("1", "", ("q",), {"answer": reference}), answer)
    assert verdict.correct is correct
    assert verdict.expected == reference
    assert extracted is None or verdict.extracted == extracted
    assert bool(verdict.note) == (not verdict.extracted)


def test_a_missing_math_library_is_named_before_anything_is_asked(monkeypatch):
    monkeypatch.setitem(sys.modules, "math_verify", None)
    asked = Sample("1", "translation", ("q",)), Sample("2", "math_reasoning", ("q",), {"answer": "1"})
    with pytest.raises(ConfigError, match=r'pip install "math-verify\[antlr4_13_2\]'):
        Benchmark("spec-bench", "here", asked, spec_bench.score).check_scoring()


LETTERS = [
    ("Answer: B", "B"),
    ("Let me think. A is wrong.\n\nAnswer: C", "C"),
    ("**Answer: D**", "D"),
    ("**Answer:** (D)", "D"),
    ("The correct answer is (B), because A is not.", "B"),
    ("The answer is option C.", "C"),
    ("so $\\boxed{A}$", "A"),
    ("so \\boxed{\\text{(B)}}", "B"),
    ("Answer: $B$", "B"),
    ("Answer: A\nNo, wait.\nAnswer: C", "C"),
    ("B", "B"),
    ("(C).", "C"),
    ("The answer is a matter of taste.", ""),
    ("Answer: An electron", ""),
    ("Answer: A's spin", ""),
    ("Answer: E", ""),
    ("It may be A or B or both.", ""),
    ("", ""),
]


@pytest.mark.parametrize(("answer", "letter"), LETTERS)
def test_letters(answer, letter):
    for right in "ABCD":
        verdict = gpqa.score(Sample("1", "", ("q",), {"letter": right}), answer)
        assert verdict.extracted == letter
        assert verdict.correct is (letter == right)


ADD = {
    "prompt": "from typing import List\n\ndef half(x):\n    return x // 2\n\n"
    'def add(xs: List[int]) -> int:\n    """Add."""\n',
    "test": "def check(candidate):\n    assert candidate([1, 2]) == 3\n    assert candidate([]) == 0\n",
    "entry_point": "add",
}
RIGHT = "def add(xs: List[int]) -> int:\n    return sum(xs)\n"
CODE = [
    (f"Here it is:\n```python\n{RIGHT}```\nDone.", True),
    (f"```\n{RIGHT}```", True),
    (f"```python\n{RIGHT}", True),  # cut before the block ends
    (RIGHT, True),
    ("    return sum(xs)\n", True),  # goes on from the docstring
    ("return sum(xs)", True),
    (f"```python\nprint(add([1]))\n```\nwith\n```python\n{RIGHT}```", True),
    ("```python\ndef add(xs):\n    return half(2 * sum(xs))\n```", True),
    ("```python\ndef add(xs):\n    return 3\n```", False),
    ("```python\ndef add(xs):\n    return sum(\n```", False),
    ("```python\ndef plus(xs):\n    return sum(xs)\n```", False),
    ("Once upon a time there was a fox.", False),
    ("```python\nimport os\nos._exit(0)\n```", False),
    ("", False),
]


@pytest.mark.parametrize(("answer", "passes"), CODE)
def test_code_is_found_completed_and_run(answer, passes):
    verdict = human_eval.score(Sample("1", "code", ("q",), ADD), answer)
    assert verdict.correct is passes, verdict.note
    assert bool(verdict.note) is not passes
