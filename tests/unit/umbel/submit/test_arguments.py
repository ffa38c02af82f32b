"""What is passed to an executor is checked where it is passed, and works or says what to do."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import TimeoutError
from typing import Any

import pytest

import umbel
from tests.support.wait import wait_until
from umbel import Executor
from umbel.api.options import Options
from umbel.exceptions import SerializeError
from umbel.testing import LocalService


@pytest.fixture
def service() -> Iterator[LocalService]:
    with LocalService(workers=3) as service:
        yield service


@pytest.fixture
def executor(service: LocalService) -> Iterator[Executor]:
    with service.executor() as executor:
        yield executor


WRONG: list[tuple[str, Any]] = [
    ("tags", "night"),
    ("tags", [1]),
    ("tags", ["x" * 65]),
    ("tags", ["x"] * 33),
    ("tags", 5),
    ("memory", "2 apples"),
    ("memory", "2"),
    ("memory", 5),
    ("memory", 2.5e9),
    ("memory", True),
    ("timeout", "60"),
    ("timeout", 0),
    ("timeout", -1),
    ("timeout", float("nan")),
    ("timeout", float("inf")),
    ("cpu", "fast"),
    ("expires", 0),
    ("retries", 1.5),
    ("retries", -1),
    ("retry_on", "ValueError"),
    ("retry_on", [int]),
    ("priority", 101),
    ("max_attempts", 0),
    ("cores", 0),
    ("open_files", 3),
    ("nested", 1),
    ("nested", "yes"),
    ("submit_timeout", -1),
    ("submit_timeout", "soon"),
    ("batch_interval", "1"),
]


@pytest.mark.parametrize(("name", "value"), WRONG)
def test_a_wrong_option_is_rejected_by_the_constructor(service: LocalService, name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=name):
        service.executor(**{name: value})


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("memory", "2GiB", 2**31),
        ("memory", "500 MB", 500_000_000),
        ("memory", "1.5gib", 3 * 2**29),
        ("output", "64KiB", 65536),
        ("timeout", "5min", 300.0),
        ("cpu", "1.5h", 5400.0),
        ("expires", "2d", 172800.0),
        ("timeout", "500ms", 0.5),
    ],
)
def test_units_are_read(name: str, text: str, value: float) -> None:
    assert Options(**{name: text}).to_json() == {name: value}  # type: ignore[arg-type]
    if name != "expires":
        decorated = umbel.function(**{name: text})(lambda: None)  # type: ignore[arg-type]
        assert decorated.__umbel_limits__ == {name: value}  # type: ignore[attr-defined]


def test_a_view_has_other_options_and_shares_the_rest(service: LocalService, executor: Executor) -> None:
    view = executor.options(tags=["night"], timeout="5min")
    again = view.options(priority=3)
    futures = [each.submit(abs, -1) for each in (executor, view, again)]
    assert [future.result(10) for future in futures] == [1, 1, 1]
    assert list(view.map(abs, [-2], chunksize=1)) == [2]
    records = [service.memory.task(str(future.task_id)).record["options"] for future in futures]
    assert records[0] == {}
    assert records[1] == {"tags": ["night"], "timeout": 300.0}
    assert records[2] == {"tags": ["night"], "timeout": 300.0, "priority": 3}
    assert view.group_id == executor.group_id
    with pytest.raises(TypeError):
        executor.options(colour="red")
    with pytest.raises(ValueError, match="tags"):
        executor.options(tags="night")


def test_an_option_passed_to_submit_is_said(executor: Executor) -> None:
    with pytest.raises(TypeError, match=r"options\(timeout=5\)"):
        executor.submit(lambda: None, timeout=5)
    assert executor.submit(lambda timeout: timeout, timeout=5).result(10) == 5
    assert executor.submit(lambda **more: more, tags=1).result(10) == {"tags": 1}


@pytest.mark.parametrize("wrap", [lambda f: (f, [1]), lambda f: ([f], 1), lambda f: ({"a": f}, 1)])
def test_a_future_as_an_argument_is_rejected_with_advice(executor: Executor, wrap: Any) -> None:
    first = executor.submit(abs, -1)
    with pytest.raises(SerializeError, match=r"future\.result\(\)"):
        executor.submit(max, *wrap(first)).result(10)


async def double(number: int) -> int:
    await asyncio.sleep(0)
    return 2 * number


def test_a_coroutine_function_runs(executor: Executor) -> None:
    assert executor.submit(double, 4).result(10) == 8
    assert executor.submit(functools.partial(double, 4)).result(10) == 8
    assert list(executor.map(double, range(3))) == [0, 2, 4]
    assert list(executor.map(double, range(3), chunksize=2)) == [0, 2, 4]


def test_an_asynchronous_generator_is_rejected(executor: Executor) -> None:
    async def numbers() -> AsyncIterator[int]:
        yield 1

    with pytest.raises(TypeError, match="asynchronous generator"):
        executor.submit(numbers)


def count(most: int) -> Iterator[int]:
    yield from range(most)


def test_a_generator_gives_the_list_of_its_items(executor: Executor) -> None:
    assert executor.submit(count, 3).result(10) == [0, 1, 2]
    assert list(executor.map(count, [1, 2])) == [[0], [0, 1]]
    assert list(executor.map(count, [1, 2], chunksize=2)) == [[0], [0, 1]]


def test_the_number_of_workers_is_that_of_the_endpoints_slots(service: LocalService) -> None:
    with service.executor() as executor:
        assert executor._max_workers == 3
    with LocalService(workers=0) as offline, offline.executor() as executor:
        assert executor._max_workers >= 1


def test_a_late_result_names_the_task_and_the_endpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("umbel.futures.ASK_AFTER", 0.0)
    with LocalService(workers=0) as offline:
        executor = offline.executor("lab")
        future = executor.submit(abs, 1)
        wait_until(lambda: future.task_id, what="the task")
        with pytest.raises(TimeoutError, match=f"{future.task_id} of abs at 'lab'.*online"):
            future.result(0.01)
        with pytest.raises(TimeoutError, match="lab"):
            future.exception(0.01)
        assert str(future.task_id) in repr(future) and "abs" in repr(future) and "lab" in repr(future)
        executor.shutdown(wait=False, cancel_futures=True)
        wait_until(future.cancelled, what="the cancellation")


def test_a_timeout_error_of_the_function_is_passed_on(executor: Executor) -> None:
    def late() -> None:
        raise TimeoutError("mine")

    with pytest.raises(TimeoutError, match="mine"):
        executor.submit(late).result(10)
