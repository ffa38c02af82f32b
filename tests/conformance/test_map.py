"""map(): order, laziness, time limits."""

from __future__ import annotations

import gc
import itertools
import time
import weakref
from collections.abc import Iterator
from concurrent.futures import TimeoutError
from pathlib import Path

import pytest

from tests.conformance.work import DEADLINE, divide, square, through_gate
from tests.support.wait import wait_until
from umbel import Executor


def test_results_come_in_the_order_of_the_arguments(executor: Executor) -> None:
    assert list(executor.map(square, range(100), timeout=DEADLINE)) == [n * n for n in range(100)]


def test_several_iterables_end_with_the_shortest(executor: Executor) -> None:
    assert list(executor.map(pow, [2, 3, 4], itertools.count(1), timeout=DEADLINE)) == [2, 9, 64]


def test_no_arguments_no_results(executor: Executor) -> None:
    assert list(executor.map(square, [])) == []


def test_results_that_were_read_are_not_kept(executor: Executor) -> None:
    results = executor.map(set, [[1], [2], [3]], timeout=DEADLINE)
    for _ in range(3):
        value = next(results)
        gone = weakref.ref(value)
        del value
        gc.collect()
        assert gone() is None


def test_an_exception_comes_at_its_place(executor: Executor) -> None:
    results = executor.map(divide, [1, 1, 1], [1, 0, 1], timeout=DEADLINE)
    assert next(results) == 1
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_calls_are_submitted_before_the_first_result_is_asked_for(executor: Executor, tmp_path: Path) -> None:
    taken = []

    def numbers() -> Iterator[int]:
        for number in range(5):
            taken.append(number)
            yield number

    results = executor.map(square, numbers())
    assert taken == [0, 1, 2, 3, 4]
    assert list(results) == [0, 1, 4, 9, 16]


def test_timeout(executor: Executor, gate: Path) -> None:
    results = executor.map(through_gate, [str(gate)] * 2, timeout=0.2)
    started = time.monotonic()
    with pytest.raises(TimeoutError):
        next(results)
    assert 0.1 < time.monotonic() - started < DEADLINE


def test_timeout_counts_from_the_call_of_map(executor: Executor, gate: Path) -> None:
    results = executor.map(through_gate, [str(gate)], timeout=0.0)
    with pytest.raises(TimeoutError):
        next(results)


def test_what_nobody_waits_for_any_more_is_cancelled(executor: Executor, service: object, gate: Path) -> None:
    results = executor.map(through_gate, [str(gate)] * 20, timeout=0.2)
    with pytest.raises(TimeoutError):
        next(results)
    with service.client() as client:  # type: ignore[attr-defined]
        wait_until(
            lambda: client.get_group(executor.group_id)["states"].get("cancelled") == 20,
            DEADLINE,
            what="20 cancelled tasks",
        )


@pytest.mark.parametrize("chunksize", [1, 3, 10, 1000])
def test_chunks_change_nothing_in_the_results(executor: Executor, chunksize: int) -> None:
    assert list(executor.map(square, range(25), chunksize=chunksize, timeout=DEADLINE)) == [
        n * n for n in range(25)
    ]


def test_chunks_are_tasks(executor: Executor, service: object) -> None:
    list(executor.map(square, range(25), chunksize=10, timeout=DEADLINE))
    with service.client() as client:  # type: ignore[attr-defined]
        assert client.get_group(executor.group_id)["total"] == 3
        assert {t["function_name"] for t in client.tasks(group_id=executor.group_id)} == {"square"}


@pytest.mark.parametrize("chunksize", [0, -1])
def test_a_chunk_has_at_least_one_call(executor: Executor, chunksize: int) -> None:
    with pytest.raises(ValueError, match="chunksize"):
        executor.map(square, [1], chunksize=chunksize)


def test_buffersize_bounds_what_is_read_ahead(executor: Executor) -> None:
    taken = 0

    def numbers() -> Iterator[int]:
        nonlocal taken
        for number in itertools.count():  # without end
            taken += 1
            yield number

    results = executor.map(square, numbers(), buffersize=4, timeout=DEADLINE)
    assert taken == 4
    for number in range(10):
        assert next(results) == number * number
        assert taken <= 4 + number + 1
    results.close()  # type: ignore[attr-defined]


@pytest.mark.parametrize("buffersize", [1, 3, 100])
def test_buffersize_changes_nothing_in_the_results(executor: Executor, buffersize: int) -> None:
    results = executor.map(square, range(10), buffersize=buffersize, timeout=DEADLINE)
    assert list(results) == [n * n for n in range(10)]


@pytest.mark.parametrize("buffersize", [0, -1, 1.5, "1"])
def test_buffersize_is_a_number_of_tasks(executor: Executor, buffersize: int) -> None:
    with pytest.raises(ValueError, match="buffersize"):
        executor.map(square, [1], buffersize=buffersize)


def test_the_function_must_be_callable(executor: Executor) -> None:
    with pytest.raises(TypeError, match="not callable"):
        executor.map(None, [])  # type: ignore[arg-type]
