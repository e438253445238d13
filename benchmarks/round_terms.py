"""docs/rounds.md: the terms of a mean round in every receipt whose arms answered in turn.

    python benchmarks/round_terms.py

Writes the page anew from assets/results; a test holds it against them.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a clone that is not installed

from benchmarks.receipt import arms_table

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "rounds.md"
HEAD = """# A round, term by term

What every switch and setting does to a round: seconds of a mean round, medians over the prompts, arms in turn in one
run. A round drafts, computes its pass, waits for weights that have not arrived, and chooses tokens (rest). `link used`
is the bytes of whole rounds over their seconds, as a share of what bare direct reads beside them took; `link busy` is
the share of the time in which anything was read. `expected` is what each arm's plan said when it was loaded, and `off
by` its error: most of these plans knew no run of their setting, and tokens a round, which they had to assume, are most
of what they missed; [results.md](results.md#predictions) has plans that knew some, and says what follows from the
terms. Written by `benchmarks/round_terms.py` from `assets/results/`, where each receipt has its command.
"""
COLUMNS = {  # of a table: the figure, and how it is written
    "tokens/s": ("decode_tokens_per_second", "{:.2f}"),
    "tokens a round": ("tokens_per_round", "{:.2f}"),
    "levels": ("levels_per_round", "{:.1f}"),
    "round, s": ("round_s", "{:.3f}"),
    "draft": ("round_draft_s", "{:.3f}"),
    "draft while waiting": ("round_ahead_s", "{:.3f}"),
    "pass": ("round_target_s", "{:.3f}"),
    "wait": ("round_wait_s", "{:.3f}"),
    "rest": ("round_overhead_s", "{:.3f}"),
    "expected tokens/s": ("predicted_tokens_per_second", "{:.2f}"),
    "off by": ("predicted_tokens_per_second_error", "{:+.0%}"),
    "expected round, s": ("predicted_round_s", "{:.3f}"),
    "round off by": ("predicted_round_s_error", "{:+.0%}"),
    "link busy": ("link_utilization", "{:.2f}"),
    "link used": ("link_used", "{:.2f}"),
}


def page() -> str:
    """All receipts that have rounds, by name."""
    parts = [HEAD]
    for path in sorted((ROOT / "assets" / "results").glob("*.json")):
        receipt = json.loads(path.read_text(encoding="utf-8"))
        if any("round_s" in row for row in arms_of(receipt).values()):
            revision = receipt["environment"]["revision"]
            parts.append(f"`{path.name}`, revision {revision}:\n\n{arms_table(arms_of(receipt), COLUMNS)}")
    return "\n".join(parts)


def arms_of(receipt: Mapping[str, Any]) -> Mapping[str, Mapping[str, float]]:
    """The medians of every arm, by its settings where those are told; nothing where a receipt has no arms."""
    found, told = receipt.get("medians", {}), receipt.get("settings", {})
    named = {name: text.replace(":", ": ", 1).replace(",", ", ").rstrip(": ") for name, text in told.items()}
    plans = receipt.get("plans", {})
    return {
        named.get(name, name): as_planned(plans.get(name, ()), row) | row
        for name, row in found.items()
        if isinstance(row, dict)
    }


def as_planned(rows: Sequence[Sequence[str]], measured: Mapping[str, float]) -> dict[str, float]:
    """What a plan's table said, for receipts that have it in no other form."""
    table = {row[0]: row[-1] for row in rows}
    if "most likely" not in table.get("predicted speed", "") or not measured.get("round_s"):
        return {}
    seconds, speed = float(table["predicted round"].split()[0]), table["predicted speed"]
    likeliest = float(speed.rpartition("most likely ")[2].split()[0])
    return {
        "predicted_tokens_per_second": likeliest,
        "predicted_round_s": seconds,
        "predicted_tokens_per_second_error": likeliest / measured["decode_tokens_per_second"] - 1.0,
        "predicted_round_s_error": seconds / measured["round_s"] - 1.0,
    }


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    print(f"written to {PAGE}")
