"""CNN/DailyMail: news articles to summarize: long prompts, short answers. Summaries are not scored."""

from __future__ import annotations

from pathlib import Path

from specdecodes.benchmark.questions.eagle import eagle
from specdecodes.benchmark.questions.samples import Benchmark, Sample
from specdecodes.benchmark.questions.sources import Hub, Row, read, text

NAME = "cnn-dm"


def load(data_dir: Path | None = None) -> Benchmark:
    """EAGLE's 80 articles from a data folder, the whole test split from the hub; asked in the same words."""
    source, samples = read(NAME, data_dir, FILES, HUB)
    return Benchmark(NAME, f"CNN/DailyMail, {len(samples)} articles from {source}", samples)


def _article(row: Row, number: int) -> Sample:
    return Sample(text(row, "id"), "summarization", (f"Summarize: {text(row, 'article')}",))


FILES = (eagle("sum"),)
HUB = Hub("abisee/cnn_dailymail", "3.0.0", "test", _article, ("id", "article"))
