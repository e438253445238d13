"""Where questions come from: the authors' files in a folder, the hub, the web."""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from huggingface_hub import constants

from specdecodes.benchmark.questions.samples import Sample
from specdecodes.errors import ConfigError
from specdecodes.extras import extra
from specdecodes.folders import replacing

Row = Mapping[str, Any]
ToSample = Callable[[Row, int], Sample]
"""A row and its number (from 1) to what is asked. Raises ValueError saying what the row lacks."""

PROBE_SECONDS = 3.0  # the hub client's own retries take half a minute without a network
INSTALL_DATASETS = 'pip install "datasets>=4"'


class MissingDataError(ConfigError):
    """Questions that are neither in the data folder nor within reach."""


@dataclass(frozen=True)
class File:
    """One of the authors' files: its name in the benchmark's folder and where it can be had."""

    name: str
    url: str
    to_sample: ToSample


class Online(Protocol):
    """Questions that need no folder."""

    @property
    def to_sample(self) -> ToSample: ...
    def rows(self) -> Iterable[Row]:
        """Raises MissingDataError with the reason."""
        ...


@dataclass(frozen=True)
class Hub:
    """A dataset of the hub, by the names that `datasets` knows it by."""

    repository: str
    configuration: str
    split: str
    to_sample: ToSample
    columns: tuple[str, ...]
    terms: str = ""  # what to do first where the dataset is gated

    def __str__(self) -> str:
        return f"{self.repository} (configuration {self.configuration}, split {self.split}) of the hub"

    def rows(self) -> Iterable[Row]:
        extra("datasets", MissingDataError(f"the package datasets is not installed ({INSTALL_DATASETS})"))
        from datasets import config, load_dataset
        from datasets.exceptions import DatasetsError
        from datasets.naming import camelcase_to_snakecase

        owner, _, dataset = self.repository.partition("/")
        cached = Path(config.HF_DATASETS_CACHE) / f"{owner}___{camelcase_to_snakecase(dataset)}"
        if not cached.is_dir() and not constants.HF_HUB_OFFLINE and not reachable(constants.ENDPOINT):
            raise MissingDataError("the hub was not reached")
        try:
            table = load_dataset(self.repository, self.configuration, split=self.split)
        except (OSError, ValueError, DatasetsError) as error:
            terms = f"; {self.terms}" if self.terms else ""
            raise MissingDataError(f"the hub did not give {self.repository}: {_one_line(error)}{terms}") from error
        return table.select_columns(list(self.columns))


@dataclass(frozen=True)
class Web:
    """One file of the authors, where they keep no dataset on the hub; kept beside the hub's cache."""

    url: str
    sha256: str
    to_sample: ToSample

    def __str__(self) -> str:
        return self.url

    def rows(self) -> Iterable[Row]:
        path = Path(constants.HF_HOME) / "specdecodes" / f"{self.sha256[:16]}-{self.url.rpartition('/')[2]}"
        if not path.is_file():
            data = self._download()
            try:
                with replacing(path) as file:
                    file.write(data)
            except OSError as error:
                raise MissingDataError(f"{path} cannot be written ({error.strerror})") from error
        return read_rows(path)

    def _download(self) -> bytes:
        if constants.HF_HUB_OFFLINE:
            raise MissingDataError("HF_HUB_OFFLINE is set")
        try:
            with urllib.request.urlopen(self.url, timeout=PROBE_SECONDS) as answer:
                data = answer.read()
        except (urllib.error.URLError, TimeoutError) as error:
            raise MissingDataError(f"{self.url} was not reached ({_one_line(error)})") from error
        if hashlib.sha256(data).hexdigest() != self.sha256:
            raise MissingDataError(f"{self.url} is not the file it was (sha256 differs)")
        return data


def read(name: str, data_dir: Path | None, files: Sequence[File], online: Online) -> tuple[str, tuple[Sample, ...]]:
    """Where the questions were found, in words, and the samples.

    With `data_dir` the first of `files` that is in `data_dir`/`name` is read and nothing else: what was asked for is
    never replaced. Without, `online`. Raises MissingDataError saying what to download, from where, and where to put it.
    """
    if data_dir is not None:
        for file in files:
            if (path := data_dir / name / file.name).is_file():
                return str(path), read_samples(path, file.to_sample)
        listed = " nor ".join(str(data_dir / name / file.name) for file in files)
        first = f"there is no {listed}" if len(files) == 1 else f"there is neither {listed}"
        raise MissingDataError(
            f"{name}: {first}. Download {files[0].url} to {data_dir / name / files[0].name}, "
            f"or leave out --data-dir to read {online}."
        )
    try:
        rows = online.rows()
    except MissingDataError as error:
        raise MissingDataError(
            f"{name}: {error}. Where there is a network the questions are read from {online}; without one, download "
            f"{files[0].url} to DIR/{name}/{files[0].name} and add --data-dir DIR."
        ) from error
    return str(online), to_samples(rows, online.to_sample, str(online))


def reachable(url: str) -> bool:
    """Whether something answers there within PROBE_SECONDS; a refusal is an answer."""
    try:
        urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=PROBE_SECONDS).close()
    except urllib.error.HTTPError:
        return True
    except (urllib.error.URLError, TimeoutError):
        return False
    return True


def read_samples(path: Path, to_sample: ToSample) -> tuple[Sample, ...]:
    """The samples of one file. Raises ConfigError naming the file and the row that cannot be used."""
    return to_samples(read_rows(path), to_sample, str(path))


def to_samples(rows: Iterable[Row], to_sample: ToSample, where: str) -> tuple[Sample, ...]:
    """`rows` as samples. Raises ConfigError for a row that lacks something, for equal ids and for no rows."""
    samples: list[Sample] = []
    for number, row in enumerate(rows, 1):
        try:
            samples.append(to_sample(row, number))
        except ValueError as error:
            raise ConfigError(f"{where}, row {number}: {error}.") from error
    if not samples:
        raise ConfigError(f"{where} holds no questions.")
    if len({sample.id for sample in samples}) < len(samples):
        raise ConfigError(f"{where} uses an id more than once; results are kept by that name.")
    return tuple(samples)


def read_rows(path: Path) -> list[Row]:
    """The rows of a .jsonl, .jsonl.gz, .json (one list) or .csv file. Raises ConfigError naming file and row."""
    rows: list[Row] = []
    try:
        for row in _parsed(path):
            if not isinstance(row, dict):
                raise ValueError("not an object")
            rows.append(row)
    except (ValueError, EOFError, OSError, csv.Error) as error:
        raise ConfigError(f"{path}, row {len(rows) + 1}, cannot be read: {error}.") from error
    return rows


def _parsed(path: Path) -> Iterable[Any]:
    data = path.read_bytes()
    content = (gzip.decompress(data) if path.suffix == ".gz" else data).decode("utf-8")
    if path.suffix == ".json":
        return json.loads(content)
    if path.suffix == ".csv":
        return csv.DictReader(io.StringIO(content, newline=""))
    # not splitlines(): texts hold line separators of other kinds
    return (json.loads(line) for line in content.split("\n") if line.strip())


def text(row: Row, name: str) -> str:
    """The text of field `name`. Raises ValueError when there is none."""
    value = row.get(name)
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"no text in '{name}'")
    return value


def question(row: Row, number: int) -> Sample:
    """A row in MT-Bench's format, which EAGLE and Spec-Bench share: question_id, category, turns, perhaps reference."""
    turns = row.get("turns")
    if "question_id" not in row:
        raise ValueError("no 'question_id'")
    if not isinstance(turns, list) or not turns or not all(isinstance(turn, str) and turn.strip() for turn in turns):
        raise ValueError("'turns' is not a list of one or more texts")
    return Sample(str(row["question_id"]), str(row.get("category") or ""), tuple(turns))


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
