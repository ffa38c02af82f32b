"""The table of faults in tests/README.rst names tests that exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TABLE = re.compile(r"^Faults and their tests\n-+\n(.*?)(?=^\S[^\n]*\n-{3,}$|\Z)", re.MULTILINE | re.DOTALL)
#: Fewer rows than this: the table is not read as it should be.
FEWEST = 25


def table(text: str) -> list[tuple[str, list[str]]]:
    """Each fault and the tests that show it."""
    found = TABLE.search(text)
    assert found is not None, "the table is missing"
    rows = re.findall(
        r"^\* - (.+?)\n  - (.+?)(?=\n\* - |\n\n|\Z)", _dedent(found[1]), re.MULTILINE | re.DOTALL
    )
    return [(" ".join(fault.split()), re.findall(r"``([^`]+)``", tests)) for fault, tests in rows]


def _dedent(text: str) -> str:
    return re.sub(r"^   ", "", text, flags=re.MULTILINE)


def missing(name: str) -> bool:
    """True if ``path::function`` is not a test."""
    path, _, function = name.partition("::")
    file = ROOT / "tests" / path
    if not file.is_file():
        return True
    tree = ast.parse(file.read_text(encoding="utf-8"))
    return function not in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_every_fault_has_a_test_that_exists() -> None:
    rows = table((ROOT / "tests" / "README.rst").read_text(encoding="utf-8"))
    assert len(rows) >= FEWEST
    assert not [fault for fault, tests in rows if not tests], "faults without a test"
    assert not [name for _, tests in rows for name in tests if missing(name)], "tests that do not exist"


def test_what_does_not_exist_is_found() -> None:
    heading = "Faults and their tests\n----------------------\n\n.. list-table::\n\n"
    rows = table(
        heading
        + "   * - a fault\n     - ``a.py::test_b``,\n       ``c.py::test_d``\n   * - other\n     - none\n"
    )
    assert rows == [("a fault", ["a.py::test_b", "c.py::test_d"]), ("other", [])]
    assert missing("a.py::test_b") and missing("architecture/test_faults.py::test_nothing")
    assert not missing("architecture/test_faults.py::test_what_does_not_exist_is_found")
