"""submit(): arguments, values, what a function may be."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from concurrent.futures import Executor as BaseExecutor
from concurrent.futures import Future
from typing import Any

import pytest

from tests.conformance.work import DEADLINE, Point, Service, echo, square
from umbel import Executor

FACTOR = 3


def times_factor(number: int) -> int:
    return number * FACTOR


def doubled(fn: Callable[[int], int]) -> Callable[[int], int]:
    @functools.wraps(fn)
    def wrapper(number: int) -> int:
        return 2 * fn(number)

    return wrapper


@doubled
def decorated(number: int) -> int:
    return number + 1


def make_adder(summand: int) -> Callable[[int], int]:
    def add(number: int) -> int:
        return number + summand

    return add


def test_is_an_executor_of_the_standard_library(executor: Executor) -> None:
    assert isinstance(executor, BaseExecutor)
    assert isinstance(executor.submit(square, 1), Future)


def test_returns_what_the_function_returns(executor: Executor) -> None:
    assert executor.submit(square, 12).result(DEADLINE) == 144


def test_arguments_arrive_as_they_were_given(executor: Executor) -> None:
    future = executor.submit(echo, 1, "two", None, [3.5, (4,)], self=5, fn=6, args={"7": 8}, kwargs=b"9")
    args, kwargs = future.result(DEADLINE)
    assert args == (1, "two", None, [3.5, (4,)])
    assert kwargs == {"self": 5, "fn": 6, "args": {"7": 8}, "kwargs": b"9"}


@pytest.mark.parametrize(
    ("fn", "argument", "expected"),
    [
        pytest.param(lambda x: x + 1, 1, 2, id="lambda"),
        pytest.param(make_adder(10), 1, 11, id="closure"),
        pytest.param(functools.partial(pow, 2), 5, 32, id="partial"),
        pytest.param(decorated, 4, 10, id="decorated"),
        pytest.param(times_factor, 4, 12, id="global"),
        pytest.param(math.sqrt, 16.0, 4.0, id="builtin"),
        pytest.param(Point(1, 2).moved, 3, None, id="method"),
        pytest.param(str.upper, "a", "A", id="unbound"),
    ],
)
def test_any_callable_will_do(executor: Executor, fn: Any, argument: Any, expected: Any) -> None:
    result = executor.submit(fn, argument).result(DEADLINE)
    if expected is None:
        assert (type(result), result.x, result.y) == (Point, 4, 5)
    else:
        assert result == expected


def test_objects_of_the_users_own_classes_travel_both_ways(executor: Executor) -> None:
    moved = executor.submit(lambda point: point.moved(1), Point(1, 2)).result(DEADLINE)
    assert isinstance(moved, Point)
    assert (moved.x, moved.y) == (2, 3)


def test_a_variable_given_another_value_is_seen_by_the_next_call(executor: Executor) -> None:
    value = 1

    def read() -> int:
        return value

    first = executor.submit(read)
    value = 2
    second = executor.submit(read)
    assert (first.result(DEADLINE), second.result(DEADLINE)) == (1, 2)


def test_functions_made_in_a_loop_keep_their_own_values(executor: Executor) -> None:
    futures = [executor.submit(make_adder(number), 0) for number in range(20)]
    assert [future.result(DEADLINE) for future in futures] == list(range(20))


def test_a_large_argument_and_result(executor: Executor) -> None:
    data = bytes(range(256)) * 4096  # 1 MiB
    assert executor.submit(lambda text: text[::-1], data).result(DEADLINE) == data[::-1]


def test_a_thousand_calls_each_get_their_own_result(executor: Executor) -> None:
    futures = [executor.submit(square, number) for number in range(1000)]
    assert [future.result(DEADLINE) for future in futures] == [n * n for n in range(1000)]
    assert len({future.task_id for future in futures}) == 1000


def test_calls_of_several_functions_may_be_mixed(executor: Executor) -> None:
    functions = [square, float, make_adder(7)]
    futures = [executor.submit(functions[n % 3], n) for n in range(300)]
    assert [f.result(DEADLINE) for f in futures] == [functions[n % 3](n) for n in range(300)]


def test_one_call_after_the_other(executor: Executor) -> None:
    for number in range(50):
        assert executor.submit(square, number).result(DEADLINE) == number * number


def test_the_future_knows_its_task(executor: Executor, service: Service) -> None:
    future = executor.submit(square, 3)
    assert future.result(DEADLINE) == 9
    assert future.group_id == executor.group_id
    assert future.task_id is not None and future.record is not None
    assert future.record["state"] == "succeeded"
    with service.client() as client:
        task = client.get_task(future.task_id)
        assert (task["state"], task["group_id"], task["function_name"]) == (
            "succeeded",
            executor.group_id,
            "square",
        )
        assert client.get_result(future.task_id) == 9


def test_what_is_not_callable_is_refused(executor: Executor) -> None:
    with pytest.raises(TypeError, match="not callable"):
        executor.submit(42)  # type: ignore[arg-type]
