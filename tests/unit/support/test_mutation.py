"""Mutation testing: which places of a module differ, and which tests execute them."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest

from tests.mutation.operators import mutants
from tests.mutation.selection import ALL, Coverage

SOURCE = """\
make = Statement(lambda d: d.where(a == 1))

@cache
def kept():
    x = 1

def decide(a):
    if (a
            and b):
        act()
        log.info("acted")
    return f(
        a < 2
    )
"""


def _found() -> dict[str, tuple[list[int], bool]]:
    return {
        f"{each.before} -> {each.after}": (list(each.lines), each.traced)
        for each in mutants(ast.parse(SOURCE))
    }


@pytest.mark.parametrize(
    ("mutant", "lines", "traced"),
    [
        ("a == 1 -> a != 1", [1], False),
        ("x = 1 -> pass", [5], False),
        ("if a and b: -> if True:", [8, 9], True),
        ("a and b -> b", [8, 9], True),
        ("act() -> pass", [10], True),
        ("return f(a < 2) -> return None", [12, 13, 14], True),
        ("a < 2 -> a <= 2", [13], True),
    ],
)
def test_a_mutant_has_the_lines_that_differ(mutant: str, lines: list[int], traced: bool) -> None:
    assert _found()[mutant] == (lines, traced)


def test_messages_have_no_mutants() -> None:
    assert not [each for each in _found() if "acted" in each]


@pytest.fixture
def tests(tmp_path: Path) -> Coverage:
    lines = {ALL: [1], "b.py::slow": [8, 10], "b.py::fast": [8], "a.py::one": [8], "a.py::other": [12]}
    seconds = {"b.py::slow": 9.0, "b.py::fast": 1.0, "a.py::one": 2.0, "a.py::other": 3.0}
    answer = tmp_path / "answer"
    answer.write_text(json.dumps([lines, seconds, []]))
    return Coverage(answer)


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ([10, 11], ["b.py::slow"]),
        ([8], ["b.py::fast", "b.py::slow", "a.py::one"]),
        ([9], []),
        ([1, 2], ["b.py::fast", "b.py::slow", "a.py::one", "a.py::other"]),
        (None, ["b.py::fast", "b.py::slow", "a.py::one", "a.py::other"]),
    ],
)
def test_tests_of_the_lines_are_run_fast_ones_first(
    tests: Coverage, lines: list[int] | None, expected: list[str]
) -> None:
    assert tests.of(lines) == expected


def test_a_test_that_has_found_mutants_is_run_first(tests: Coverage) -> None:
    for _ in range(2):
        tests.found("a.py::other")
    tests.found("a.py::one")
    assert tests.of(None) == ["a.py::other", "a.py::one", "b.py::fast", "b.py::slow"]
    assert tests.of([8]) == ["a.py::one", "b.py::fast", "b.py::slow"]
