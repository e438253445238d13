"""Runs a program that a model wrote, with the network taken away and time, memory and file sizes limited.

It is a fence against accidents, no prison: the program runs as the user and can read and write what the user can.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from functools import cache
from typing import IO

SECONDS = 10
MEMORY_BYTES = 1 << 30
FILE_BYTES = 16 << 20
NAMESPACE = ("unshare", "--map-root-user", "--net", "--pid", "--fork", "--kill-child")
# In the child: limits first, then the program from standard input, then the word that says it came to its end.
LAUNCHER = """
import resource, sys
for limit, most in ((resource.RLIMIT_AS, {memory}), (resource.RLIMIT_FSIZE, {file}), (resource.RLIMIT_CORE, 0)):
    resource.setrlimit(limit, (most, most))
if {block}:
    def refuse(event, arguments):
        if event.startswith(("socket.", "subprocess.", "os.system", "os.exec", "os.posix_spawn", "os.fork")):
            raise PermissionError("no network here: " + event)
    sys.addaudithook(refuse)
word = sys.argv[1]
sys.argv[1:] = []
exec(compile(sys.stdin.read(), "<answer>", "exec"), {{"__name__": "__main__"}})
print("\\n" + word)
"""


@cache
def isolates_network() -> bool:
    """Whether this system lets a process start in a network and process namespace of its own."""
    if shutil.which(NAMESPACE[0]) is None:
        return False
    probe = subprocess.run([*NAMESPACE, "true"], capture_output=True, timeout=SECONDS)
    return probe.returncode == 0


def warning() -> str:
    """What running a model's code means here, for the person who allowed it."""
    network = (
        "in a network namespace of its own, which has no network"
        if isolates_network()
        else "with Python's sockets and subprocesses blocked, which determined code can get around"
    )
    return (
        "code execution is allowed: Python code that the model wrote is run on this machine, as you, to score it; "
        f"{network}; for at most {SECONDS} s and {MEMORY_BYTES >> 20} MiB, in an empty folder. "
        "It can still read and write your files: use a container for a model that you do not trust."
    )


def run_program(program: str, seconds: float = SECONDS) -> str:
    """Run `program` in a Python of its own; empty when it came to its end, else what went wrong in one line."""
    word, isolated = secrets.token_hex(16), isolates_network()
    launcher = LAUNCHER.format(memory=MEMORY_BYTES, file=FILE_BYTES, block=not isolated)
    command = [*(NAMESPACE if isolated else ()), sys.executable, "-I", "-c", launcher, word]
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=out,  # files, whose size is limited too
            stderr=err,
            cwd=folder,
            env={"PATH": os.defpath, "PYTHONHASHSEED": "0"},
            start_new_session=True,
        )
        try:
            process.communicate(program.encode(), timeout=seconds)
        except subprocess.TimeoutExpired:
            return f"not done after {seconds:g} s"
        finally:
            _end(process)
        if process.returncode == 0 and _tail(out).endswith(word):
            return ""
        lines = _tail(err).splitlines()
        return lines[-1][:200] if lines else f"it ended early (exit status {process.returncode})"


def _tail(file: IO[bytes]) -> str:
    """The end of what was written there."""
    file.seek(max(0, file.seek(0, os.SEEK_END) - 4096))
    return file.read().decode(errors="replace").strip()


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill the process and what it started."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
