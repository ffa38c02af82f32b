"""Calls that yield: their items are read while they run, in order, each once, from any program."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from concurrent.futures import CancelledError, TimeoutError
from pathlib import Path
from typing import Any

import pytest

from tests.conformance.work import DEADLINE, Refused, Service, open_gate, square
from umbel import Executor, TaskError
from umbel.protocol.errors import NotFound, StreamRestarted


def count(n: int) -> Iterator[int]:
    yield from range(n)
    return n  # noqa: B901  what the future's result is


def pause(gate: str, before: int, after: int) -> Iterator[int]:
    """Yield ``before`` items, wait for the gate, and yield ``after`` more."""
    yield from range(before)
    while not os.path.exists(gate):
        time.sleep(0.01)
    yield from range(before, before + after)


def fail_after(n: int) -> Iterator[int]:
    yield from range(n)
    raise Refused("the generator", n)


def again(folder: str) -> Iterator[str]:
    """Fail the first time, once the gate is open."""
    first = not os.path.exists(f"{folder}/began")
    open(f"{folder}/began", "w").close()
    yield "first" if first else "second"
    if first:
        while not os.path.exists(f"{folder}/gate"):
            time.sleep(0.01)
        raise Refused("the first try", 1)
    yield "end"


def test_items_arrive_before_the_end_of_the_call(executor: Executor, gate: Path) -> None:
    future = executor.submit(pause, str(gate), 3, 2)
    items = future.stream(DEADLINE)
    assert [next(items) for _ in range(3)] == [0, 1, 2]
    # the call cannot end before this
    assert not future.done() and not gate.exists()
    open_gate(gate)
    assert list(items) == [3, 4]
    assert future.result(DEADLINE) == [0, 1, 2, 3, 4]


def test_what_the_generator_returns_is_the_result(executor: Executor) -> None:
    futures = [executor.submit(count, n) for n in (0, 1, 7)]
    assert [list(future.stream(DEADLINE)) for future in futures] == [[], [0], [*range(7)]]
    assert [future.result(DEADLINE) for future in futures] == [0, 1, 7]
    # as often as one likes
    assert list(futures[2].stream(DEADLINE)) == [*range(7)]


def test_a_call_that_does_not_yield_has_no_items(executor: Executor) -> None:
    assert list(executor.submit(square, 3).stream(DEADLINE)) == []


def test_an_exception_comes_after_the_items_before_it(executor: Executor) -> None:
    items = executor.submit(fail_after, 3).stream(DEADLINE)
    assert [next(items) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(Refused, match="the generator"):
        next(items)


def test_ten_thousand_items(executor: Executor) -> None:
    future = executor.submit(count, 10_000)
    assert list(future.stream(DEADLINE)) == list(range(10_000))
    assert future.result(DEADLINE) == 10_000


def test_an_item_that_does_not_travel(executor: Executor) -> None:
    def strange() -> Iterator[Any]:
        yield "fine"
        yield (i for i in range(3))

    items = executor.submit(strange).stream(DEADLINE)
    assert next(items) == "fine"
    with pytest.raises(TaskError) as caught:
        next(items)
    assert caught.value.code == "RESULT_NOT_SERIALIZABLE"


def test_waiting_has_an_end(executor: Executor, gate: Path) -> None:
    future = executor.submit(pause, str(gate), 1, 0)
    items = future.stream(DEADLINE)
    assert next(items) == 0
    with pytest.raises(TimeoutError):
        list(future.stream(0.2))
    open_gate(gate)
    assert list(items) == []


def test_cancelling_ends_the_stream(executor: Executor, gate: Path) -> None:
    future = executor.submit(pause, str(gate), 2, 0)
    items = future.stream(DEADLINE)
    assert [next(items), next(items)] == [0, 1]
    assert future.cancel()
    with pytest.raises(CancelledError):
        next(items)


def test_another_client_reads_it_from_the_beginning(service: Service, executor: Executor, gate: Path) -> None:
    future = executor.submit(pause, str(gate), 2, 1)
    items = future.stream(DEADLINE)
    assert next(items) == 0
    with service.client() as client:
        theirs = client.stream(str(future.task_id), timeout=DEADLINE)
        assert [next(theirs), next(theirs)] == [0, 1]
        (reloaded,) = Executor.reload(executor.group_id, client=client)
        again = reloaded.stream(DEADLINE)
        assert next(again) == 0
        open_gate(gate)
        assert list(theirs) == [2] and list(again) == [1, 2] and list(items) == [1, 2]
        with pytest.raises(NotFound):
            next(client.stream("0190a0a0-0000-7000-8000-000000000000"))


def test_a_second_try_is_told_from_the_first(service: Service, tmp_path: Path) -> None:
    with service.executor(retries=1) as executor:
        future = executor.submit(again, str(tmp_path))
        items = future.stream(DEADLINE)
        assert next(items) == "first"
        (tmp_path / "gate").touch()
        with pytest.raises(StreamRestarted):
            next(items)
        assert list(future.stream(DEADLINE)) == ["second", "end"]
