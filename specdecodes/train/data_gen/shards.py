"""Training data on disk: safetensors shards, an index that says what each holds, and the settings that made them.

    FOLDER/settings.json
    FOLDER/part-000-of-002/index.jsonl        one line a shard, there when the shard is whole
    FOLDER/part-000-of-002/00000.safetensors  tokens [T] int32, mask [T] bool, inputs [T, k h], last [T, h],
                                              offsets [n + 1]

The conversations of a shard lie one after another; conversation i is rows offsets[i] to offsets[i + 1].
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from specdecodes.errors import ConfigError
from specdecodes.train.data_gen.features import Features
from specdecodes.train.data_gen.mask import MaskedTokens

FORMAT = 1
SETTINGS, INDEX = "settings.json", "index.jsonl"


@dataclass(frozen=True)
class Share:
    """Which part of the work a process does: rows `index`, `index` + `count`, ..."""

    index: int = 0
    count: int = 1

    @classmethod
    def parse(cls, text: str) -> Share:
        """`i/n`, counted from 0. Raises ConfigError."""
        index, slash, count = text.partition("/")
        if not slash or not index.isdigit() or not count.isdigit() or not int(index) < int(count):
            raise ConfigError(f"'{text}' is no share of the work; write i/n with i from 0 to n - 1, such as 0/2.")
        return cls(int(index), int(count))

    @property
    def folder(self) -> str:
        return f"part-{self.index:03d}-of-{self.count:03d}"


@dataclass(frozen=True)
class Shard:
    """A line of the index. `through`: rows of the source up to this one are done, whether kept or skipped; a line
    without a `file` says only that."""

    file: str
    through: int
    conversations: int
    tokens: int
    answer_tokens: int
    skipped: dict[str, int]


@dataclass(frozen=True)
class Stored:
    """One conversation as it was stored: `tokens` [n] int64, `mask` [n] bool, `inputs` [n, k h], `last` [n, h]."""

    tokens: Tensor
    mask: Tensor
    inputs: Tensor
    last: Tensor


class ShardWriter:
    """Gathers conversations and writes a shard whenever `shard_tokens` are together."""

    def __init__(self, folder: Path, share: Share, settings: Mapping[str, Any], shard_tokens: int) -> None:
        _agree(folder, {"format": FORMAT, "parts": share.count, **settings})
        self._folder, self._shard_tokens = folder / share.folder, shard_tokens
        self._folder.mkdir(exist_ok=True)
        self.shards = read_index(self._folder / INDEX)
        self._waiting: list[tuple[MaskedTokens, Features]] = []
        self._skipped: Counter[str] = Counter()
        self._through = self.through

    @property
    def through(self) -> int:
        """Rows of the source that are done for good."""
        return self.shards[-1].through if self.shards else 0

    def skip(self, row: int, reason: str) -> None:
        """Count row number `row` (from 0) as skipped."""
        self._skipped[reason] += 1
        self._through = row + 1

    def add(self, row: int, conversation: MaskedTokens, features: Features) -> None:
        """Take row number `row` (from 0); rows come in order."""
        self._waiting.append((conversation, features))
        self._through = row + 1
        if sum(len(masked.tokens) for masked, _ in self._waiting) >= self._shard_tokens:
            self.flush()

    def flush(self) -> None:
        """Write what is gathered. A shard appears in the index only when it is whole on disk."""
        if self._through == self.through:
            return
        file, waiting = "", self._waiting
        if waiting:
            file = f"{sum(bool(shard.file) for shard in self.shards):05d}.safetensors"
            _write(self._folder / file, waiting)
        shard = Shard(
            file,
            self._through,
            len(waiting),
            sum(len(masked.tokens) for masked, _ in waiting),
            sum(sum(masked.mask) for masked, _ in waiting),
            dict(self._skipped),
        )
        self.shards.append(shard)
        lines = "".join(json.dumps(asdict(line)) + "\n" for line in self.shards)
        _replace(self._folder / INDEX, lambda partial: partial.write_text(lines, encoding="utf-8"))
        self._waiting = []
        self._skipped.clear()


def read_index(path: Path) -> list[Shard]:
    """The lines of an index; none where there is no index. Raises ConfigError when it is damaged."""
    if not path.is_file():
        return []
    try:
        return [Shard(**json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]
    except (ValueError, TypeError) as error:
        raise ConfigError(f"{path} is damaged ({error}); remove {path.parent} and run again.") from error


def read_settings(folder: Path) -> dict[str, Any]:
    """The settings that made the data in `folder`. Raises ConfigError when there are none."""
    try:
        return json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{folder} holds no training data ({SETTINGS}: {error}); make it with "
            "python -m specdecodes.train.data_gen.allocation."
        ) from error


class StoredConversations:
    """All conversations in a folder, of every process's part, in a fixed order; each is read when it is asked for."""

    def __init__(self, folder: Path) -> None:
        self.settings = read_settings(folder)
        self._places: list[tuple[Path, int, int]] = []
        for part in sorted(folder.glob("part-*-of-*")):
            for shard in read_index(part / INDEX):
                if shard.file:
                    with safe_open(part / shard.file, "pt") as file:
                        offsets = file.get_tensor("offsets").tolist()
                    self._places += [(part / shard.file, *ends) for ends in pairwise(offsets)]
        if not self._places:
            raise ConfigError(f"{folder} holds no conversations yet; see its index.")

    def __len__(self) -> int:
        return len(self._places)

    @property
    def lengths(self) -> list[int]:
        """Tokens of each conversation."""
        return [stop - start for _, start, stop in self._places]

    def __getitem__(self, index: int) -> Stored:
        path, start, stop = self._places[index]
        with safe_open(path, "pt") as file:
            rows = {name: file.get_slice(name)[start:stop] for name in file.keys() if name != "offsets"}  # noqa: SIM118
        return Stored(rows["tokens"].long(), rows["mask"], rows.get("inputs", rows["last"]), rows["last"])


def _write(path: Path, waiting: list[tuple[MaskedTokens, Features]]) -> None:
    lengths = [0, *(len(masked.tokens) for masked, _ in waiting)]
    tensors = {
        "tokens": torch.tensor([token for masked, _ in waiting for token in masked.tokens], dtype=torch.int32),
        "mask": torch.tensor([own for masked, _ in waiting for own in masked.mask]),
        "last": torch.cat([features.last for _, features in waiting]),
        "offsets": torch.tensor(lengths).cumsum(0),
    }
    if waiting[0][1].inputs is not waiting[0][1].last:
        tensors["inputs"] = torch.cat([features.inputs for _, features in waiting])
    _replace(path, lambda partial: save_file(tensors, partial))


def _replace(path: Path, write: Callable[[Path], object]) -> None:
    """`path` holds either its old content or all of the new; several processes may do so at once."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    write(partial)
    partial.replace(path)


def _agree(folder: Path, settings: dict[str, Any]) -> None:
    """Store the settings of a fresh folder; refuse others in a folder that has some."""
    folder.mkdir(parents=True, exist_ok=True)
    path, wanted = folder / SETTINGS, json.loads(json.dumps(settings))
    if not path.exists():
        text = json.dumps(wanted, indent=1) + "\n"
        _replace(path, lambda partial: partial.write_text(text, encoding="utf-8"))
        return
    found = read_settings(folder)
    changed = [key for key in sorted(found.keys() | wanted.keys()) if found.get(key) != wanted.get(key)]
    if changed:
        listed = "; ".join(f"{key} was {found.get(key)!r} and is {wanted.get(key)!r}" for key in changed)
        raise ConfigError(
            f"{folder} holds data made with other settings: {listed}. Choose another folder, or remove it."
        )
