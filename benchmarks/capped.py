"""Processes whose memory is limited, page cache included, by a control group of their own (Linux, as root)."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
NAME = f"specdecodes-peers-{os.getpid()}"  # one that a killed run left behind is not ours


@dataclass(frozen=True)
class Cap:
    """A control group; `limit` and `peak` are the names of its files."""

    folder: Path
    limit: str
    peak: str

    @classmethod
    def find(cls, root: Path = ROOT) -> Cap | None:
        """The group that can be had here, of the first or second version; None where none can."""
        if (root / "cgroup.controllers").is_file():
            found = cls(root / NAME, "memory.max", "memory.peak")
            enabled, line = root / "cgroup.subtree_control", "+memory"
        elif (root / "memory/memory.limit_in_bytes").is_file():
            found = cls(root / "memory" / NAME, "memory.limit_in_bytes", "memory.max_usage_in_bytes")
            enabled, line = None, ""
        else:
            return None
        try:
            if enabled is not None:
                enabled.write_text(line)
            found.folder.mkdir(exist_ok=True)
            return found if os.access(found.folder / found.limit, os.W_OK) else None
        except OSError:
            return None

    def command(self, nbytes: int, command: Sequence[str]) -> list[str]:
        """`command` in this group, anew, under a limit of `nbytes`."""
        self.close()
        self.folder.mkdir()
        (self.folder / self.limit).write_text(str(nbytes))
        return ["bash", "-c", 'echo $$ > "$0/cgroup.procs" && exec "$@"', str(self.folder), *command]

    @property
    def peak_bytes(self) -> int | None:
        """The most memory its processes held, cache included."""
        file = self.folder / self.peak
        return int(file.read_text()) if file.is_file() else None

    def close(self) -> None:
        """Removes the group, whose processes have ended."""
        if self.folder.is_dir():
            self.folder.rmdir()


def drop_caches() -> bool:
    """Empty the page cache, so that nobody reads what another has read; False where that is not allowed."""
    os.sync()
    try:
        Path("/proc/sys/vm/drop_caches").write_text("3")
    except OSError:
        return False
    return True


def has_module(python: str, name: str) -> bool:
    """Whether the interpreter `python` finds the module `name`."""
    code = f"import importlib.util, sys; sys.exit(importlib.util.find_spec('{name}') is None)"
    try:
        return subprocess.run([python, "-c", code], capture_output=True, check=False).returncode == 0
    except OSError:
        return False
