"""Alpaca: instructions of many kinds. There is no right answer to score."""

from __future__ import annotations

from pathlib import Path

from specdecodes.benchmark.questions.eagle import eagle
from specdecodes.benchmark.questions.samples import Benchmark, Sample
from specdecodes.benchmark.questions.sources import File, Hub, Row, read, text

NAME = "alpaca"


def load(data_dir: Path | None = None) -> Benchmark:
    """EAGLE's 80 instructions, AlpacaEval's 805, all of Alpaca or its seeds, as the data folder has it; all of Alpaca
    from the hub."""
    source, samples = read(NAME, data_dir, FILES, HUB)
    return Benchmark(NAME, f"Alpaca, {len(samples)} instructions from {source}", samples)


def _instruction(row: Row, number: int) -> Sample:
    return Sample(str(number), str(row.get("dataset") or ""), (_asked(row, row.get("input")),))


def _seed(row: Row, number: int) -> Sample:
    instances = row.get("instances")
    if not isinstance(instances, list) or not instances or not isinstance(instances[0], dict):
        raise ValueError("no 'instances'")
    return Sample(text(row, "id"), str(row.get("name") or ""), (_asked(row, instances[0].get("input")),))


def _asked(row: Row, given: object) -> str:
    instruction = text(row, "instruction")
    return f"{instruction}\n\n{given}" if given else instruction


STANFORD = "https://raw.githubusercontent.com/tatsu-lab/stanford_alpaca/761dc5bfbdeeffa89b8bff5d038781a4055f796a"
FILES = (
    eagle("alpaca"),
    File(
        "alpaca_eval_text_davinci_003.json",
        "https://raw.githubusercontent.com/tatsu-lab/alpaca_eval/cd543a149df89434d8a54582c0151c0b945c3d20/"
        "results/text_davinci_003/model_outputs.json",
        _instruction,
    ),
    File("alpaca_data.json", f"{STANFORD}/alpaca_data.json", _instruction),
    File("stanford_alpaca_seed_tasks.jsonl", f"{STANFORD}/seed_tasks.jsonl", _seed),
)
HUB = Hub("tatsu-lab/alpaca", "default", "train", _instruction, ("instruction", "input"))
