"""MT-Bench: 80 two-turn questions in eight categories, or 16 of our own in its format where those cannot be had.

`data_dir` comes first, then the hub, then the bundled questions. Whichever is used is named in `Benchmark.source`.
"""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import constants, hf_hub_download, hf_hub_url
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

from specdecodes.benchmark.questions.samples import Benchmark
from specdecodes.benchmark.questions.sources import File, MissingDataError, question, reachable, read_samples

NAME = "mt-bench"
BUNDLED = Path(__file__).parent / "data" / "mt_bench_small.jsonl"
HUB_REPOSITORY = "lmsys/mt-bench"  # a space, by the authors of the benchmark
HUB_FILE = "data/mt_bench/question.jsonl"
FILE = File(
    "question.jsonl",
    "https://raw.githubusercontent.com/lm-sys/FastChat/0e6d3e4beaab66f4d3f93db72541a4abab8af28d/"
    "fastchat/llm_judge/data/mt_bench/question.jsonl",
    question,
)


def load(data_dir: Path | None = None) -> Benchmark:
    """The questions of `data_dir`/mt-bench/question.jsonl, of the hub, or the bundled ones, in this order.

    Raises MissingDataError when `data_dir` is given and holds none: what was asked for is never replaced.
    """
    if data_dir is not None:
        path = data_dir / NAME / FILE.name
        if not path.is_file():
            raise MissingDataError(
                f"{NAME}: {path} does not exist. Download {FILE.url} there, "
                "or leave out --data-dir to read the hub, else the bundled questions."
            )
        return Benchmark(NAME, f"MT-Bench questions from {path}", read_samples(path, question))
    downloaded, reason = _from_hub()
    if downloaded is not None:
        source = f"MT-Bench questions from the hub ({HUB_REPOSITORY})"
        return Benchmark(NAME, source, read_samples(downloaded, question))
    samples = read_samples(BUNDLED, question)
    source = f"{len(samples)} bundled questions in MT-Bench's format, not MT-Bench itself ({reason}; see --data-dir)"
    return Benchmark(NAME, source, samples)


def _from_hub() -> tuple[Path | None, str]:
    """The downloaded question file, or None and the reason why there is none."""
    try:
        return Path(_download(local_files_only=True)), ""
    except LocalEntryNotFoundError:
        pass  # not downloaded before
    if constants.HF_HUB_OFFLINE:
        return None, "HF_HUB_OFFLINE is set"
    if not reachable(hf_hub_url(HUB_REPOSITORY, HUB_FILE, repo_type="space")):
        return None, "the hub was not reached"
    try:
        return Path(_download(local_files_only=False)), ""
    except HfHubHTTPError as error:
        return None, f"the hub refused {HUB_REPOSITORY}: {error.response.status_code}"
    except LocalEntryNotFoundError:
        return None, "the hub was not reached"


def _download(*, local_files_only: bool) -> str:
    return hf_hub_download(HUB_REPOSITORY, HUB_FILE, repo_type="space", local_files_only=local_files_only)
