"""CONTRIBUTING.md, followed to the letter in a copy of the project: what it tells people to write works."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
GUIDE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
COPIED = ("specdecodes", "run", "tests", "pyproject.toml")
# The tests that each page says to run, and how many must have passed.
PAGES = {
    "A benchmark": ("tests/benchmark/questions/test_proverbs.py", "proverbs", 1),
    "A drafter": ("tests/test_lossless.py", "echo and llama3 and fast", 4),
    "A family": ("tests/models/test_families.py", "seed-oss and (test_families or subspec_sd-seed-oss-streamed)", 2),
}


def page(title: str) -> list[str]:
    """The Python blocks of one page."""
    text = GUIDE.partition(f"\n## {title}\n")[2].partition("\n## ")[0]
    return re.findall(r"```python\n(.*?)```", text, re.DOTALL)


def follow(block: str, root: Path) -> None:
    """`# PATH` is a new file; `# PATH, in LINE` goes behind the line that starts so; `instead of LINE` replaces it."""
    first, _, code = block.partition("\n")
    name, _, place = first.removeprefix("# ").partition(", ")
    path = root / name
    if not place:
        assert not path.exists(), f"{name} exists already: the page needs another example"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(block, encoding="utf-8")
        return
    replaces = place.startswith("instead of ")
    anchor = place.removeprefix("instead of ").removeprefix("in ")
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    found = [number for number, line in enumerate(lines) if line.startswith(anchor)]
    assert found, f"{name} has no line that starts with '{anchor}'"
    lines[found[0] : found[0] + 1] = [code] if replaces else [lines[found[0]], code]
    path.write_text("".join(lines), encoding="utf-8")


@pytest.fixture(scope="module")
def copy(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("contributing")
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, root / name)  # what is compiled there too
        else:
            shutil.copy(source, root / name)
    for title in PAGES:
        assert page(title), f"no page called {title}"
        for block in page(title):
            follow(block, root)
    return root


@pytest.mark.long
def test_the_pages_work_as_written(copy):
    files = [file for file, _, _ in PAGES.values()]
    chosen = " or ".join(f"({words})" for _, words, _ in PAGES.values())
    command = [sys.executable, "-m", "pytest", "-q", "-rA", "-p", "no:cacheprovider", *files, "-k", chosen]
    done = subprocess.run(command, cwd=copy, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    for title, (file, _, least) in PAGES.items():
        assert done.stdout.count(f"\nPASSED {file}::") >= least, f"{title}: {done.stdout}"


def test_the_new_files_pass_the_linter(copy):
    new = [block.partition("\n")[0].removeprefix("# ") for title in PAGES for block in page(title)]
    for tool in (["check"], ["format", "--check"]):
        command = [sys.executable, "-m", "ruff", *tool, *(name for name in new if "," not in name)]
        done = subprocess.run(command, cwd=copy, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout
