"""The house rules that a reader relies on: who may import whom, how long things are, what is never written."""

from __future__ import annotations

import ast
import functools
from collections import Counter, defaultdict
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LIBRARY = ROOT / "specdecodes"
SOURCES = sorted(path for name in ("specdecodes", "run", "benchmarks") for path in (ROOT / name).rglob("*.py"))

# A room imports from the layers below its own, never from its own layer or above.
LAYERS = (
    {"errors", "notify", "spans"},
    {"folders", "tables"},
    {"units", "values", "tree", "native", "extras", "prompts"},
    {"cache", "offload", "quant", "sampling"},
    {"models", "config", "verify", "stats"},
    {"engine", "pipelines"},
    {"drafters"},
    {"decode"},
    {"answer", "likelihood"},
    {"generator"},
    {"methods"},
    {"benchmark", "train"},
    {"cli"},
)
RANK = {room: rank for rank, layer in enumerate(LAYERS) for room in layer}
# `Generator.from_pretrained` is for people; it asks methods/ to build a generator when it is called, not when imported.
CALLED_LATE = {("generator", "methods")}
# Only methods/ connects these.
APART = ("drafters", "quant", "offload")


@functools.cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def trees(paths: list[Path]) -> Iterator[tuple[Path, ast.Module]]:
    for path in paths:
        yield path.relative_to(ROOT), parsed(path)


@functools.cache
def imported(tree: ast.AST) -> tuple[tuple[str, ...], ...]:
    """Dotted names, as tuples, of all that a module imports, at its top or inside its functions."""
    names: list[tuple[str, ...]] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += (tuple(alias.name.split(".")) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names += ((*node.module.split("."), alias.name) for alias in node.names)
    return tuple(names)


def room(path: Path) -> str:
    return path.with_suffix("").parts[1]


def library_imports() -> Iterator[tuple[Path, str]]:
    for path, tree in trees(sorted(LIBRARY.rglob("*.py"))):
        for name in imported(tree):
            if name[0] == "specdecodes" and name[1] != room(path):
                yield path, name[1]


def test_every_room_has_a_place_among_the_layers():
    rooms = {room(path.relative_to(ROOT)) for path in LIBRARY.rglob("*.py")} - {"__init__"}
    assert rooms <= RANK.keys()


def test_imports_point_downwards():
    upward = {
        f"{path} imports {other}"
        for path, other in library_imports()
        if other in RANK and (room(path), other) not in CALLED_LATE and RANK[room(path)] <= RANK[other]
    }
    assert not upward


def test_drafters_quant_and_offload_do_not_know_each_other():
    met = {
        f"{path} imports {other}" for path, other in library_imports() if room(path) in APART and other in set(APART)
    }
    assert not met


def test_no_circle_within_a_room():
    """Of files and rooms that stand side by side, each can be read after those that it imports."""
    beside: dict[Path, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for path, tree in trees(sorted(LIBRARY.rglob("*.py"))):
        parts = path.with_suffix("").parts
        for name in imported(tree):
            shared = next((n for n, (ours, theirs) in enumerate(zip(parts, name, strict=False)) if ours != theirs), 0)
            if shared > 1 and parts[shared] != "__init__" and is_module(name[: shared + 1]):
                beside[Path(*parts[:shared])][parts[shared]].add(name[shared])
    assert len(beside) > 10
    for graph in beside.values():
        TopologicalSorter(graph).prepare()  # raises CycleError, which names the circle


def is_module(name: tuple[str, ...]) -> bool:
    place = ROOT.joinpath(*name)
    return place.is_dir() or place.with_suffix(".py").is_file()


def test_the_library_imports_nothing_from_outside_itself():
    outside = {"run", "tests", "benchmarks", "assets"}
    found = {
        f"{path} imports {'.'.join(name)}"
        for path, tree in trees(sorted(LIBRARY.rglob("*.py")))
        for name in imported(tree)
        if name[0] in outside
    }
    assert not found


def test_late_imports_are_inside_functions():
    for importer, other in CALLED_LATE:
        tree = ast.parse((LIBRARY / importer).with_suffix(".py").read_text(encoding="utf-8"))
        at_import = ast.Module([node for node in tree.body if not isinstance(node, ast.ClassDef | ast.FunctionDef)], [])
        assert not [name for name in imported(at_import) if name[:2] == ("specdecodes", other)]


def test_no_class_name_is_used_twice():
    names = Counter(
        node.name for _, tree in trees(SOURCES) for node in ast.walk(tree) if isinstance(node, ast.ClassDef)
    )
    assert not [name for name, uses in names.items() if uses > 1]


def test_no_handler_catches_everything():
    broad = {"Exception", "BaseException"}
    found = [
        f"{path}:{node.lineno}"
        for path, tree in trees(SOURCES)
        for node in ast.walk(tree)
        if isinstance(node, ast.ExceptHandler)
        and (node.type is None or broad & {n.id for n in ast.walk(node.type) if isinstance(n, ast.Name)})
    ]
    assert not found


def test_no_state_is_changed_through_global():
    assert not [
        f"{path}:{n.lineno}" for path, tree in trees(SOURCES) for n in ast.walk(tree) if isinstance(n, ast.Global)
    ]


def test_no_room_is_a_drawer():
    assert not [path for path in SOURCES if path.stem in {"utils", "helpers", "common", "core", "misc"}]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_and_functions_stay_short(path: Path):
    text = path.read_text(encoding="utf-8")
    code = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    assert len(code) <= 300, "look for the name of the part that should move out"
    long = [
        f"{node.name}, line {node.lineno}"
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.FunctionDef) and body_lines(node) > 50
    ]
    assert not long


def body_lines(node: ast.FunctionDef) -> int:
    """Lines of a function's body; its signature and docstring are for the reader."""
    body = node.body[1:] if ast.get_docstring(node) else node.body
    return body[-1].end_lineno - body[0].lineno + 1 if body else 0
