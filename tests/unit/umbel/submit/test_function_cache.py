"""Functions are serialized once, and again when what they refer to has changed."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest

from umbel.serialize import FunctionBody, dump_function, load_function
from umbel.submit import function_cache
from umbel.submit.function_cache import FunctionCache

FACTOR = 2


def scaled(number: int) -> int:
    return number * FACTOR


def indirect(number: int) -> int:
    return scaled(number) + 1


@pytest.fixture
def dumps(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The functions that were serialized."""
    seen: list[Any] = []

    def dump(fn: Callable[..., Any]) -> FunctionBody:
        seen.append(fn)
        return dump_function(fn)

    monkeypatch.setattr(function_cache, "dump_function", dump)
    return seen


def test_once(dumps: list[Any]) -> None:
    cache = FunctionCache()
    bodies = {id(cache.get(scaled)) for _ in range(100)}
    assert len(bodies) == 1 and dumps == [scaled]


@pytest.mark.parametrize("fn", [scaled, indirect])
def test_again_when_a_global_has_another_value(
    dumps: list[Any], fn: Callable[[int], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = FunctionCache()
    before = load_function(cache.get(fn).data)(10)
    monkeypatch.setitem(fn.__globals__, "FACTOR", 5)
    assert load_function(cache.get(fn).data)(10) - before == 30
    assert len(dumps) == 2


def test_again_when_a_captured_variable_has_another_value(dumps: list[Any]) -> None:
    number = 1

    def read() -> int:
        return number

    cache = FunctionCache()
    assert load_function(cache.get(read).data)() == 1
    assert load_function(cache.get(read).data)() == 1
    number = 2
    assert load_function(cache.get(read).data)() == 2
    assert len(dumps) == 2


def test_methods_and_partials_each_time_because_their_objects_may_change(dumps: list[Any]) -> None:
    class Counter:
        value = 0

        def read(self) -> int:
            return self.value

    counter, cache = Counter(), FunctionCache()
    for value in (1, 2):
        counter.value = value
        assert load_function(cache.get(counter.read).data)() == value
        assert load_function(cache.get(functools.partial(scaled, value)).data)() == 2 * value
    assert len(dumps) == 4


def test_equal_code_is_one_body() -> None:
    cache = FunctionCache()
    bodies = [cache.get(lambda: 1) for _ in range(5)]
    assert all(body is bodies[0] for body in bodies)


def test_memory_is_bounded() -> None:
    cache = FunctionCache()
    for number in range(function_cache.CACHE_SIZE + 50):
        cache.get(lambda number=number: number)  # type: ignore[misc]
    assert len(cache._entries) <= function_cache.CACHE_SIZE
    assert len(cache._bodies) <= function_cache.CACHE_SIZE
