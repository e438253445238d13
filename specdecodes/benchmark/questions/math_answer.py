"""Mathematical answers: asking for one that can be found again, finding it, and telling whether it is right."""

from __future__ import annotations

import re

from specdecodes.benchmark.questions.samples import Sample, Score
from specdecodes.errors import ConfigError
from specdecodes.extras import extra

BOX_IT = "Please reason step by step, and put your final answer within \\boxed{}."
INSTALL = 'pip install "math-verify[antlr4_13_2]==0.9.0"'
MARKED = re.compile(r"####\s*(\S[^\n]*)")  # as GSM8K's own solutions end


def ask(problem: str) -> str:
    """`problem` and the request, in the words that instruct models were tuned on, to box the answer."""
    return f"{problem.strip()}\n\n{BOX_IT}"


def score(sample: Sample, answer: str) -> Score:
    """Right when the boxed (else the stated, else the last) number or expression of `answer` equals the reference:
    as text, as a number or as a symbolic expression.

    Raises ConfigError where math-verify is not installed.
    """
    expected = sample.reference["answer"]
    library = extra("math_verify", ConfigError(f"scoring mathematical answers needs math-verify: {INSTALL}"))
    gold = library.parse(f"${expected}$")
    marked = MARKED.findall(answer)
    found = library.parse(marked[-1] if marked and "\\boxed" not in answer else answer)
    extracted = str(found[-1]) if found else ""
    note = "" if found else "no number or expression was found"
    return Score(bool(found) and library.verify(gold, found), extracted, expected, note)
