"""Draws where the time of a token goes, one bar a method, from the summaries of benchmark runs.

    python benchmarks/plot_round.py --out assets/figures/round.svg assets/results/*.json

Each input is the `summary.json` of a run-benchmark; the figure's caption names the machine and revision they hold.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

PHASES = {  # name in the summary: label, colour
    "wait": ("waiting for weights", "#b0413e"),
    "target": ("verifying", "#e0a458"),
    "draft": ("drafting", "#4a7c9d"),
    "overhead": ("the rest", "#9aa5a9"),
}


def token_seconds(summary: Mapping[str, Any]) -> dict[str, float]:
    """Seconds of decoding by phase, per token that decoding emitted; prefill is left out."""
    tokens = summary["rounds"] * summary["tokens_per_round"]
    return {phase: summary["phase_seconds"][phase] / tokens for phase in PHASES}


def caption(summaries: Sequence[Mapping[str, Any]]) -> str:
    """What the figure was measured on. Raises SystemExit when the runs are not of one machine, revision and model."""
    facts = {
        (s["model"], s["benchmark"], s["environment"]["cpu"], s["environment"]["cores"], s["environment"]["revision"])
        for s in summaries
    }
    if len(facts) != 1:
        raise SystemExit(
            f"these runs cannot share a figure: they differ in model, machine or revision: {sorted(facts)}"
        )
    model, benchmark, cpu, cores, revision = facts.pop()
    return f"{Path(model).name}, {benchmark}, {cpu}, {cores} cores, revision {revision}"


def draw(summaries: Sequence[Mapping[str, Any]], out: Path) -> None:
    """Write the figure to `out`, in the format of its suffix; the slowest method is on top."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "specdecodes"  # equal input, equal file
    from matplotlib import pyplot

    ordered = sorted(summaries, key=lambda s: s["decode_tokens_per_second"], reverse=True)
    figure, axes = pyplot.subplots(figsize=(8, 1.2 + 0.55 * len(ordered)))
    for row, summary in enumerate(ordered):
        left = 0.0
        for phase, seconds in token_seconds(summary).items():
            label, colour = PHASES[phase]
            axes.barh(row, seconds, left=left, color=colour, label=label if row == 0 else None, height=0.6)
            left += seconds
        axes.text(left, row, f"  {summary['decode_tokens_per_second']:.2f} tokens/s", va="center", fontsize=9)
    axes.set_yticks(range(len(ordered)), [summary["method"] for summary in ordered])
    axes.set_xlabel("seconds per token")
    axes.set_title(caption(summaries), fontsize=8, loc="left")
    axes.margins(x=0.18)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=len(PHASES), frameon=False, fontsize=8)
    figure.tight_layout(rect=(0, 0.08, 1, 1))
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, metadata={"Date": None} if out.suffix == ".svg" else None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("summaries", nargs="+", type=Path, help="summary.json files of one model and machine")
    parser.add_argument("--out", type=Path, required=True, help="the figure, .svg or .png")
    arguments = parser.parse_args()
    draw([json.loads(path.read_text(encoding="utf-8")) for path in arguments.summaries], arguments.out)
    print(f"wrote {arguments.out}")


if __name__ == "__main__":
    main()
