"""The states of a training run on disk: whole or not there at all, the newest kept."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from specdecodes.errors import ConfigError

if TYPE_CHECKING:
    from accelerate import Accelerator

SETTINGS = "settings.json"
FREE = ("out", "run", "minutes", "workers", "cpu")
"""Settings that may change between a run and its continuation: they do not touch the losses."""


@dataclass
class Progressed:
    """How far a run is. `best` is acceptance by depth at `best_step`; `waited` evaluations have not been better."""

    step: int = 0
    best: list[float] = field(default_factory=list)
    best_step: int = 0
    waited: int = 0
    ended: bool = False

    def judged(self, acceptance: list[float], patience: int) -> bool:
        """Take an evaluation in; whether it is the best so far."""
        better = not self.best or sum(acceptance) > sum(self.best)
        if better:
            self.best, self.best_step, self.waited = list(acceptance), self.step, 0
        else:
            self.waited += 1
            self.ended = self.waited >= patience
        return better

    def state_dict(self) -> dict[str, Any]:
        """For accelerate, which keeps it with the weights."""
        return asdict(self)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """As `state_dict` gave it."""
        for name, value in state.items():
            setattr(self, name, value)


class Checkpoints:
    """Weights, optimizer, dice and progress under `folder`/state-STEP."""

    def __init__(self, folder: Path, accelerator: Accelerator, progress: Progressed) -> None:
        self._folder, self._accelerator, self._progress = folder, accelerator, progress
        accelerator.register_for_checkpointing(progress)

    def newest(self) -> Path | None:
        """The folder of the newest whole state."""
        return max(self._folder.glob("state-*"), default=None)

    def load(self, settings: dict[str, Any]) -> bool:
        """Go on from the newest state, if there is one. Raises ConfigError when it was made with other settings."""
        wanted = json.loads(json.dumps(settings, default=str))
        path, newest = self._folder / SETTINGS, self.newest()
        if newest is not None:
            found = json.loads(path.read_text(encoding="utf-8"))
            changed = [name for name in wanted if name not in FREE and found.get(name) != wanted[name]]
            if changed:
                listed = "; ".join(f"{name} was {found.get(name)} and is {wanted[name]}" for name in changed)
                raise ConfigError(f"{self._folder} holds a run with other settings: {listed}. Remove it to start anew.")
            self._accelerator.load_state(str(newest))
        elif self._accelerator.is_main_process:
            self._folder.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(wanted, indent=1) + "\n", encoding="utf-8")
        return newest is not None

    def save(self) -> None:
        """Write the state; earlier ones go when it is whole."""
        state = self._folder / f"state-{self._progress.step:08d}"
        partial = state.with_name(f".{state.name}")
        self._accelerator.save_state(str(partial))
        self._accelerator.wait_for_everyone()
        if self._accelerator.is_main_process:
            shutil.rmtree(state, ignore_errors=True)
            partial.rename(state)
            for other in self._folder.glob("state-*"):
                if other != state:
                    shutil.rmtree(other)
        self._accelerator.wait_for_everyone()
