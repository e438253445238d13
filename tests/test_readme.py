"""What the README says can be done: its commands exist, its tree is the repository's, its Python runs."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import pytest
import typer

from run.main import WITHOUT_PIPELINE
from specdecodes import pipelines
from specdecodes.cli.app import app

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def commands() -> list[str]:
    return [line for block in blocks("bash") for line in block.splitlines() if line and not line.startswith("#")]


def options_of(command: str) -> set[str]:
    known = typer.main.get_command(app).commands[command]
    return {name for option in known.params for name in (*option.opts, *option.secondary_opts)}


def test_there_are_commands_to_check():
    assert sum("run.sh" in line for line in commands()) >= 2
    assert "bash run_test.sh" in commands()


@pytest.mark.parametrize("line", commands())
def test_every_command_exists(line):
    program, script, *arguments = shlex.split(line)
    assert program in {"bash", "python"}
    if script == "-m":
        script = arguments[0].replace(".", "/") + ".py"
    assert (ROOT / script).is_file()
    if script == "run.sh":
        if arguments[0] not in WITHOUT_PIPELINE:
            pipelines.check(arguments.pop(0))
        command, *rest = arguments
        assert {word for word in rest if word.startswith("--")} <= options_of(command)


def listed() -> set[str]:
    """Paths of the README's tree; two blanks are one level."""
    paths, folder = set(), ""
    for line in blocks("text")[0].splitlines():
        name = line.split()[0]
        if not line.startswith(" "):
            folder = name
        paths.add(name if name == folder else folder + name)
    return paths


def folders() -> set[str]:
    """Folders of the repository that a reader meets: all at the top, and those of the library."""
    tracked = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    parents = [Path(name).parent.parts for name in tracked if not name.startswith(".")]
    top = {f"{parts[0]}/" for parts in parents if parts}
    library = {f"specdecodes/{parts[1]}/" for parts in parents if len(parts) > 1 and parts[0] == "specdecodes"}
    return top | library


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="the tree is compared with git's list of files")
def test_the_tree_of_folders_is_the_repository_s():
    assert listed() == folders()


def test_every_linked_file_exists():
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", README)
    assert links
    assert not [link for link in links if not (ROOT / link).exists()]


def test_the_python_example_runs(capsys, monkeypatch):
    (example,) = blocks("python")
    monkeypatch.chdir(ROOT)
    exec(example, {})
    assert re.search(r"[0-9.]+ tokens/s, [0-9.]+ draft tokens accepted per round", capsys.readouterr().out)
