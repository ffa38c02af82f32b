"""Modules, functions and classes stay small enough to be read at once.

A module has at most 300 lines, a function 40 (without its docstring), a class 15 public methods. A module
may have up to 450 lines where one concept is that large: a comment that begins with ``# One concept:``,
before the first import, says which. The allow-list may only shrink: an entry that is larger than the code,
or no longer needed, fails too.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.architecture.sources import PACKAGES, ROOT, tree

MODULE_LINES, LARGE_MODULE_LINES, FUNCTION_LINES, PUBLIC_METHODS = 300, 450, 40, 15

#: The line that permits a large module, and what it says.
ONE_CONCEPT = re.compile(r"^# One concept:[ \t]*(\S.*)$", re.MULTILINE)
#: The first import of a module, at the beginning of a line.
IMPORT = re.compile(r"^(?:from|import) ", re.MULTILINE)

#: "path", "path::function" or "path::Class" -> its size today. Never add, never raise.
ALLOWED: dict[str, int] = {}

FOLDERS = [*PACKAGES.values(), ROOT / "examples", ROOT / "benchmarks", ROOT / "tests" / "support"]


def _files() -> list[Path]:
    return [file for folder in FOLDERS for file in sorted(folder.rglob("*.py"))]


def _sizes(file: Path) -> Iterator[tuple[str, int, int]]:
    """Yield (name, size, limit) of the file and of everything in it."""
    path = str(file.relative_to(ROOT))
    text = file.read_text(encoding="utf-8")
    yield path, len(text.splitlines()), LARGE_MODULE_LINES if _is_one_concept(text) else MODULE_LINES
    yield from _inner_sizes(path + "::", tree(file))


def _is_one_concept(source: str) -> bool:
    """Return whether a module's source states, before its first import, that it is one large concept."""
    code = _without_docstring(source)
    first_import = IMPORT.search(code)
    return ONE_CONCEPT.search(code[: first_import.start()] if first_import else code) is not None


def _without_docstring(source: str) -> str:
    """The lines of a module after its docstring."""
    body = ast.parse(source).body
    if not body or not isinstance(body[0], ast.Expr) or not isinstance(body[0].value, ast.Constant):
        return source
    lines = source.splitlines(keepends=True)
    before, after = lines[: body[0].lineno - 1], lines[body[0].end_lineno or 0 :]
    return "".join(before + after)


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


def test_a_module_that_claims_to_be_one_concept_is_large() -> None:
    small = [
        str(file.relative_to(ROOT))
        for file in _files()
        if _is_one_concept(text := file.read_text(encoding="utf-8"))
        and len(text.splitlines()) <= MODULE_LINES
    ]
    assert not small, f"delete the '# One concept:' line of these modules, which do not need it: {small}"


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ('"""Doc."""\n\n# One concept: a client.\n\nimport os\n', True),
        ("# One concept: a client.\nimport os\n", True),
        ('"""Doc."""\n\n# One concept: a client.\nX = 1\n', True),
        ('"""Doc."""\n\nimport os\n\n# One concept: a client.\n', False),
        ('"""Doc.\n\n# One concept: a client.\n"""\n\nimport os\n', False),
        ('"""Doc."""\n\n# One concept:\n\nimport os\n', False),
        ('"""Doc.\n\nimport os\n"""\n\n# One concept: a client.\n\nfrom os import path\n', True),
        ('"""Doc."""\n\nimport os\n', False),
    ],
)
def test_one_concept_is_claimed_with_a_reason_before_the_first_import(source: str, expected: bool) -> None:
    assert _is_one_concept(source) is expected


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
