"""What a function may ask for, how it is named, and how it travels with the function."""

from __future__ import annotations

import functools
import re
from typing import Any

import pytest

import umbel
from umbel.protocol.environment import Environment, of_function
from umbel.serialize import dump_function, load_function


def test_order_doubles_and_spaces_make_no_difference() -> None:
    one = Environment(["numpy==2.*", " scipy>=1 ", "numpy==2.*"], "3.11")
    assert one == Environment(["scipy>=1", "numpy==2.*"], "3.11")
    assert one.digest == Environment.from_json(one.to_json()).digest
    assert one.digest != Environment(["numpy==2.*", "scipy>=1"], "3.12").digest
    assert one.to_json() == {"requirements": ["numpy==2.*", "scipy>=1"], "python": "3.11"}


@pytest.mark.parametrize(
    "good",
    [
        "numpy",
        "numpy==2.*",
        "a.b-c_d[x, y] >=1.0,!=1.5 ; python_version < '3.12'",
        "scikit-learn~=1.4",
        "tool @ https://example.org/tool-1.0-py3-none-any.whl",
        "old (>=1,<2)",
    ],
)
def test_requirements_that_pip_reads(good: str) -> None:
    assert Environment([good]).packages[0] in ("numpy", "a-b-c-d", "scikit-learn", "tool", "old")


@pytest.mark.parametrize(
    "bad",
    [
        "-r /etc/passwd",
        "--index-url=http://evil.example",
        "numpy --no-binary=:all:",
        "numpy; python_version>'3' --global-option=x",
        "./here",
        "sub/folder",
        "https://evil.example/x.tar.gz",
        "numpy\n--extra-index-url http://evil.example",
        "numpy==${SECRET}",
        "numpy==1 \\",
        "",
        "ä",
        "x" * 501,
        7,
        None,
    ],
)
def test_what_is_no_requirement(bad: Any) -> None:
    with pytest.raises(ValueError, match="^" + re.escape(repr(bad)) + " "):
        Environment([bad])


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"requirements": "numpy"},
        {"python": "2.7"},
        {"python": "/bin/sh"},
        {"name": "../x"},
        {"name": "a", "python": "3.11"},
        {"requirements": [f"p{number}" for number in range(201)]},
    ],
)
def test_what_is_no_environment(values: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="environment|python|requirements|name"):
        Environment(**values)


def _add(one: int, other: int) -> int:
    return one + other


def test_it_travels_with_the_function_and_changes_its_digest() -> None:
    plain = dump_function(_add).data
    marked = umbel.function(requirements=["numpy"])(lambda one, other: one + other)
    assert marked(1, 2) == 3
    body = dump_function(marked).data
    assert of_function(plain) is None and of_function(body) == Environment(["numpy"])
    assert load_function(body)(2, 3) == 5
    assert of_function(dump_function(functools.partial(marked, 1)).data) == Environment(["numpy"])


def test_bytes_that_lie_are_refused() -> None:
    assert of_function(b"anything") is None
    for head in (b'{"environment": 3}', b'{"environment": {"requirements": ["-x"]}}', b'["environment"'):
        with pytest.raises(ValueError, match="environment|header|requirement"):
            of_function(b"UMBF" + len(head).to_bytes(4, "big") + head)


def test_what_cannot_carry_an_environment_says_so() -> None:
    with pytest.raises(TypeError, match="built-in function pow"):
        umbel.function(requirements=["numpy"])(pow)
    with pytest.raises(ValueError, match="not both"):
        umbel.function(requirements=["numpy"], environment="ready")
    with pytest.raises(ValueError, match="^requirements .*'numpy'"):
        umbel.function(requirements="numpy")
