"""What a training run tells while it goes: lines of JSON, and TensorBoard where it is installed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Protocol

from specdecodes.notify import Notify


class Board(Protocol):
    """What is used of TensorBoard's writer."""

    def add_scalar(self, tag: str, value: float, step: int) -> None: ...

    def flush(self) -> None: ...


class Curve:
    """`log.jsonl` and `tensorboard/` in `folder`. Lines behind `step` are dropped: a resumed run writes them again."""

    def __init__(self, folder: Path, step: int, notify: Notify) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / "log.jsonl"
        kept = [line for line in read_curve(self._path) if line["step"] <= step]
        self._path.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
        self._board = _board(folder / "tensorboard", step, notify)

    def add(self, step: int, **values: Any) -> None:
        """One line, flushed; lists become one TensorBoard scalar for each place."""
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")
        if self._board is None:
            return
        for name, value in values.items():
            if isinstance(value, list):
                for place, part in enumerate(value, 1):
                    self._board.add_scalar(f"{name}/{place}", part, step)
            else:
                self._board.add_scalar(name, value, step)
        self._board.flush()  # its writer is a thread that dies with the process


def read_curve(path: Path) -> list[dict[str, Any]]:
    """The lines of a log; a last line cut short is left out."""
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]


def _board(folder: Path, step: int, notify: Notify) -> Board | None:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        notify("TensorBoard is not installed, so the run is logged as JSON lines only: pip install tensorboard")
        return None
    return SummaryWriter(str(folder), purge_step=step + 1)
