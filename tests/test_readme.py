"""What README and docs/ say: commands and files exist, the tree is the repository's, figures are their receipts'."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from run.main import WITHOUT_PIPELINE
from specdecodes import pipelines
from specdecodes.cli.app import app

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
PAGES = (README, *sorted((ROOT / "docs").glob("*.md")))
RECEIPTS = ROOT / "assets" / "results"
RAW = {"rounds", "runs", "cases", "plans", "settings", "environment"}
"""Parts of a receipt that pages do not quote."""


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)


def commands(page: Path) -> list[str]:
    return [line for block in blocks(page, "bash") for line in block.splitlines() if line and not line.startswith("#")]


def options_of(command: str) -> set[str]:
    known = typer.main.get_command(app).commands[command]
    return {name for option in known.params for name in (*option.opts, *option.secondary_opts)}


def test_there_are_commands_to_check():
    assert sum("run.sh" in line for line in commands(README)) >= 2
    assert "bash run_test.sh" in commands(README)


@pytest.mark.parametrize("line", dict.fromkeys(line for page in PAGES for line in commands(page)))
def test_every_command_exists(line: str):
    program, script, *arguments = shlex.split(line)
    assert program in {"bash", "python"}
    if script == "-m":
        script = arguments[0].replace(".", "/") + ".py"
    assert (ROOT / script).is_file()
    if script == "run.sh":
        if arguments[0] not in WITHOUT_PIPELINE and "--model" not in arguments:
            pipelines.check(arguments[0])
        command, *rest = arguments if arguments[0].startswith("run-") else arguments[1:]
        assert {word for word in rest if word.startswith("--")} <= options_of(command)


def listed() -> set[str]:
    """Paths of the README's tree; two blanks are one level."""
    paths, folder = set(), ""
    for line in blocks(README, "text")[0].splitlines():
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


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_linked_file_and_named_receipt_exists(page: Path):
    text = page.read_text(encoding="utf-8")
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", text)
    assert not [link for link in links if not (page.parent / link).exists()]
    elsewhere = {"summary.json", "tokenizer.json", "config.json", "training.json"}
    named = set(re.findall(r"`([\w.-]+\.json)`", text)) - elsewhere
    assert not [name for name in named if not (RECEIPTS / name).is_file()]


def test_the_readme_is_short_and_leads_to_every_page():
    text = README.read_text(encoding="utf-8")
    assert len(text.encode()) <= 10 * 1024
    assert not [page.name for page in PAGES[1:] if f"](docs/{page.name})" not in text]


@pytest.mark.long
def test_the_python_example_runs(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    (example,) = blocks(README, "python")
    monkeypatch.chdir(ROOT)
    exec(example, {})
    assert re.search(r"[0-9.]+ tokens/s, [0-9.]+ draft tokens accepted per round", capsys.readouterr().out)


def quoted(page: Path) -> Iterator[tuple[str, str]]:
    """Every figure in a table whose row, or else the paragraph before it, names one receipt: (receipt, figure)."""
    text = page.read_text(encoding="utf-8")
    for before, table in re.findall(r"((?:^[^|\n].*\n)+)\n((?:^\|.*\n)+)", text, re.MULTILINE):
        for row in table.splitlines():
            named = re.findall(r"`([\w.-]+\.json)`", row) or re.findall(r"`([\w.-]+\.json)`", before)
            cells = (cell.strip(" *") for cell in row.split("|"))
            figures = [cell for cell in cells if re.fullmatch(r"[\d,]+(\.\d+)?( s|x)?", cell)]
            if len(named) == 1:
                yield from ((named[0], figure) for figure in figures)


# A page that a script writes has figures that follow from a receipt's; tests/benchmarks/test_round_terms.py holds it.
QUOTED = {page.name: sorted(set(quoted(page))) for page in PAGES if page.name != "rounds.md"}


def values(receipt: str) -> list[float]:
    """The numbers that a receipt sums up in; of one that is a table too, the table's."""
    table = (RECEIPTS / receipt).with_suffix(".md")
    if table.is_file():
        return [float(number) for number in re.findall(r"\d+(?:\.\d+)?", table.read_text(encoding="utf-8"))]
    whole = json.loads((RECEIPTS / receipt).read_text(encoding="utf-8"))
    return list(leaves({name: part for name, part in whole.items() if name not in RAW}))


def leaves(value: Any) -> Iterator[float]:
    if isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from leaves(part)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield value


def test_there_are_figures_to_check():
    assert len(QUOTED["README.md"]) >= 20 and len(QUOTED["results.md"]) >= 40 and QUOTED["measuring.md"]


@pytest.mark.parametrize("receipt", sorted({receipt for figures in QUOTED.values() for receipt, _ in figures}))
def test_figures_in_tables_are_those_of_their_receipt(receipt: str):
    found = values(receipt)
    for page, figures in QUOTED.items():
        for figure in (figure for named, figure in figures if named == receipt):
            number = figure.rstrip(" sx").replace(",", "")
            half = 0.5 * 10 ** -len(number.partition(".")[2]) + 1e-9
            assert any(abs(value - float(number)) <= half for value in found), f"{page}: {figure} is not in {receipt}"
