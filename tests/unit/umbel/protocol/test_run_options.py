"""Limits of functions: what is taken, how they travel with the function, how they are merged."""

from __future__ import annotations

import functools
import json
from typing import Any

import pytest

import umbel
from umbel.environment import limits_of
from umbel.protocol.environment import Environment, of_function
from umbel.protocol.run_options import BOUNDS, Limits, RunOptions, limits_of_function
from umbel.serialize import dump_function, load_function


@umbel.function(timeout=60, memory=2 << 30)
def limited() -> int:
    return 1


def test_limits_travel_with_the_function() -> None:
    body = dump_function(limited).data
    assert limits_of_function(body) == Limits(timeout=60, memory=2 << 30)
    assert of_function(body) is None and load_function(body)() == 1
    partial = functools.partial(functools.partial(limited))
    assert limits_of_function(dump_function(partial).data) == limits_of(limited)
    assert limits_of_function(dump_function(abs).data) is None and limits_of_function(b"anything") is None


def test_a_function_may_have_an_environment_too() -> None:
    def both() -> None: ...

    umbel.function(requirements=["numpy"])(umbel.function(cpu=1.5)(both))
    body = dump_function(both).data
    assert (of_function(body), limits_of_function(body)) == (Environment(["numpy"]), Limits(cpu=1.5))
    umbel.function(environment="ready", open_files=100)(both)
    body = dump_function(both).data
    assert (of_function(body), limits_of_function(body)) == (
        Environment(name="ready"),
        Limits(open_files=100),
    )


@pytest.mark.parametrize(
    "bad",
    [
        {"timeout": 0},
        {"timeout": -1.0},
        {"timeout": "60"},
        {"timeout": float("nan")},
        {"timeout": float("inf")},
        {"timeout": 1e9},
        {"cpu": True},
        {"memory": 1000},
        {"memory": 2.5e9},
        {"output": -1},
        {"output": 2 << 20},
        {"open_files": 31},
        {"isolation": "thread"},
        {"isolation": ["process"]},
        {},
        {"walltime": 3},
        [],
        None,
    ],
)
def test_what_cannot_be_a_limit(bad: Any) -> None:
    with pytest.raises(ValueError, match="limit|timeout|cpu|memory|output|open_files|isolation"):
        Limits.from_json(bad)
    if bad is not None:
        head = json.dumps({"limits": bad}).encode()
        with pytest.raises(ValueError):
            limits_of_function(b"UMBF" + len(head).to_bytes(4, "big") + head)


def test_the_decorator_refuses_at_once() -> None:
    with pytest.raises(ValueError, match="^timeout .* 0$"):
        umbel.function(timeout=0)
    with pytest.raises(ValueError, match="requirements"):
        umbel.function()
    with pytest.raises(TypeError, match="built-in function pow"):
        umbel.function(timeout=3)(pow)


def test_of_each_limit_the_smaller_one_counts() -> None:
    asked = RunOptions(timeout=10.0, memory=100 << 20, cores=4, output=0)
    assert asked.tightened(None) is asked and asked.tightened(RunOptions()) is asked
    both = asked.tightened(Limits(timeout=20.0, memory=50 << 20, cpu=3.0, output=10, open_files=64))
    assert both == RunOptions(timeout=10.0, memory=50 << 20, cpu=3.0, cores=4, output=0, open_files=64)
    assert RunOptions().tightened(Limits(output=0)).output == 0
    # one way and the other
    for name, (_, most) in BOUNDS.items():
        small, large = RunOptions(**{name: 5}), RunOptions(**{name: most})
        assert small.tightened(large) == large.tightened(small) == small


def test_a_call_is_isolated_if_its_function_asks_for_it() -> None:
    def dirty() -> None: ...

    umbel.function(isolation="process")(dirty)
    own = limits_of_function(dump_function(dirty).data)
    assert own == Limits(isolation="process") and Limits.from_json(own.to_json()) == own
    assert RunOptions(timeout=5.0).tightened(own) == RunOptions(timeout=5.0, isolation="process")
    assert RunOptions(isolation="process").tightened(Limits(timeout=5.0)).isolation == "process"
    with pytest.raises(ValueError, match="isolation"):
        umbel.function(isolation="container")
