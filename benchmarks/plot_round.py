"""Draws where the time of a token goes, one bar a method, from a receipt of streamed.py.

    python benchmarks/plot_round.py assets/results/NAME.json --title "WHAT WAS RUN" --out assets/figures/round.svg

Bars are seconds of decoding per token, summed over all prompts of the receipt; prefill is left out.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

PHASES = {  # name in the receipt: label, colour
    "wait": ("waiting for weights", "#b0413e"),
    "target": ("verifying", "#e0a458"),
    "draft": ("drafting", "#4a7c9d"),
    "overhead": ("the rest", "#9aa5a9"),
}


def token_seconds(receipt: Mapping[str, Any], method: str) -> dict[str, float]:
    """Seconds by phase per token that decoding emitted."""
    arms = [prompt[method] for prompt in receipt["rounds"]]
    tokens = sum(arm["rounds"] * arm["tokens_per_round"] for arm in arms)
    return {phase: sum(arm["phase_seconds"][phase] for arm in arms) / tokens for phase in PHASES}


def caption(receipt: Mapping[str, Any]) -> str:
    """Where the figures come from."""
    place = receipt["environment"]
    cpu = f"{place['cpu']}, {place['cores']} cores"
    return f"{len(receipt['rounds'])} prompts, {cpu}, revision {place['revision']}"


def draw(receipt: Mapping[str, Any], title: str, out: Path) -> None:
    """Write the figure to `out`, in the format of its suffix; the slowest method is on top."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "specdecodes"  # equal input, equal file
    from matplotlib import pyplot

    bars = {method: token_seconds(receipt, method) for method in receipt["medians"]}
    ordered = sorted(bars, key=lambda method: sum(bars[method].values()))
    figure, axes = pyplot.subplots(figsize=(8, 1.5 + 0.55 * len(ordered)))
    for row, method in enumerate(ordered):
        left = 0.0
        for phase, seconds in bars[method].items():
            label, colour = PHASES[phase]
            axes.barh(row, seconds, left=left, color=colour, label=label if row == 0 else None, height=0.6)
            left += seconds
        axes.text(left, row, f"  {1 / left:.2f} tokens/s", va="center", fontsize=9)
    axes.set_yticks(range(len(ordered)), ordered)
    axes.set_xlabel("seconds per token")
    axes.set_title(f"{title}\n{caption(receipt)}", fontsize=8, loc="left")
    axes.margins(x=0.18)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=len(PHASES), frameon=False, fontsize=8)
    figure.tight_layout(rect=(0, 0.1, 1, 1))
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, metadata={"Date": None} if out.suffix == ".svg" else None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("receipt", type=Path, help="a receipt of streamed.py")
    parser.add_argument("--title", required=True, help="model and budget, for the reader of the figure")
    parser.add_argument("--out", type=Path, required=True, help="the figure, .svg or .png")
    arguments = parser.parse_args()
    draw(json.loads(arguments.receipt.read_text(encoding="utf-8")), arguments.title, arguments.out)
    print(f"wrote {arguments.out}")


if __name__ == "__main__":
    main()
