"""Modules, functions and classes stay small enough to be read at once.

A module has at most 300 lines, a function 40 (without its docstring), a class 15 public methods. The
allow-list may only shrink: an entry that is larger than the code, or not needed any more, fails too.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.architecture.sources import PACKAGES, ROOT, tree

MODULE_LINES, FUNCTION_LINES, PUBLIC_METHODS = 300, 40, 15

#: "path", "path::function" or "path::Class" -> its size today. Never add, never raise.
ALLOWED: dict[str, int] = {}

FOLDERS = [*PACKAGES.values(), ROOT / "examples", ROOT / "benchmarks", ROOT / "tests" / "support"]


def _files() -> list[Path]:
    return [file for folder in FOLDERS for file in sorted(folder.rglob("*.py"))]


def _sizes(file: Path) -> Iterator[tuple[str, int, int]]:
    """Yield (name, size, limit) of the file and of everything in it."""
    path = str(file.relative_to(ROOT))
    yield path, len(file.read_text(encoding="utf-8").splitlines()), MODULE_LINES
    yield from _inner_sizes(path + "::", tree(file))


def _inner_sizes(prefix: str, parent: ast.AST) -> Iterator[tuple[str, int, int]]:
    for node in ast.iter_child_nodes(parent):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield prefix + node.name, _function_lines(node), FUNCTION_LINES
            yield from _inner_sizes(f"{prefix}{node.name}.", node)
        elif isinstance(node, ast.ClassDef):
            yield prefix + node.name, len(_public_methods(node)), PUBLIC_METHODS
            yield from _inner_sizes(f"{prefix}{node.name}.", node)
        elif isinstance(node, (ast.If, ast.Try, ast.With)):
            yield from _inner_sizes(prefix, node)


def _function_lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    lines = (node.end_lineno or node.lineno) - node.lineno + 1
    if ast.get_docstring(node, clean=False) is not None:
        docstring = node.body[0]
        lines -= (docstring.end_lineno or docstring.lineno) - docstring.lineno + 1
    return lines


def _public_methods(node: ast.ClassDef) -> set[str]:
    """Names of public methods; a property and its setter count once."""
    functions = (child for child in node.body if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)))
    return {function.name for function in functions if not function.name.startswith("_")}


def test_nothing_is_larger_than_its_limit() -> None:
    sizes = [entry for file in _files() for entry in _sizes(file)]
    assert sizes, "no source files found: the test looks in the wrong place"
    too_large = [
        f"{name}: {size}, at most {ALLOWED.get(name, limit)}"
        for name, size, limit in sizes
        if size > ALLOWED.get(name, limit)
    ]
    assert not too_large, "split by reason to change:\n" + "\n".join(too_large)


def test_the_allow_list_only_shrinks() -> None:
    real = {name: (size, limit) for file in _files() for name, size, limit in _sizes(file)}
    stale = [
        name
        for name, allowed in ALLOWED.items()
        if name not in real or real[name][0] < allowed or real[name][0] <= real[name][1]
    ]
    assert not stale, f"lower or delete these entries of ALLOWED: {stale}"


@pytest.mark.parametrize(
    ("source", "size"),
    [
        ("def f():\n    return 1\n", 2),
        ('def f():\n    """One.\n\n    Two.\n    """\n    return 1\n', 2),
    ],
)
def test_docstrings_do_not_count(source: str, size: int) -> None:
    function = ast.parse(source).body[0]
    assert isinstance(function, ast.FunctionDef)
    assert _function_lines(function) == size
