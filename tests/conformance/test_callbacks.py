"""add_done_callback(): once, for every end, thousands of them, and whatever they do."""

from __future__ import annotations

import logging
import threading
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from tests.conformance.work import DEADLINE, divide, open_gate, square, through_gate
from tests.support.wait import wait_until
from umbel import Executor


def test_with_a_result_and_with_an_exception(executor: Executor) -> None:
    ends: list[Any] = []
    good, bad = executor.submit(square, 3), executor.submit(divide, 1, 0)
    good.add_done_callback(lambda future: ends.append(future.result()))
    bad.add_done_callback(lambda future: ends.append(type(future.exception())))
    wait_until(lambda: len(ends) == 2, DEADLINE, what="both callbacks")
    assert 9 in ends and ZeroDivisionError in ends


def test_added_after_the_end_runs_at_once(executor: Executor) -> None:
    future = executor.submit(square, 3)
    future.result(DEADLINE)
    seen: list[tuple[Future[Any], threading.Thread]] = []
    future.add_done_callback(lambda done: seen.append((done, threading.current_thread())))
    assert seen == [(future, threading.current_thread())]


def test_run_in_the_order_in_which_they_were_added(executor: Executor, gate: Path) -> None:
    future = executor.submit(through_gate, str(gate))
    seen: list[int] = []
    for number in range(100):
        future.add_done_callback(lambda _, number=number: seen.append(number))  # type: ignore[misc]
    open_gate(gate)
    wait_until(lambda: len(seen) == 100, DEADLINE, what="100 callbacks")
    assert seen == list(range(100))


def test_one_that_raises_is_logged_and_stops_nothing(
    executor: Executor, gate: Path, caplog: pytest.LogCaptureFixture
) -> None:
    future = executor.submit(through_gate, str(gate), "value")
    seen: list[Any] = []

    def fail(_: Future[Any]) -> None:
        raise RuntimeError("a callback of the user's")

    future.add_done_callback(fail)
    future.add_done_callback(lambda done: seen.append(done.result()))
    with caplog.at_level(logging.ERROR, logger="concurrent.futures"):
        open_gate(gate)
        wait_until(lambda: seen, DEADLINE, what="the second callback")
    assert seen == ["value"]
    assert "a callback of the user's" in caplog.text
    assert executor.submit(square, 2).result(DEADLINE) == 4


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_one_that_raises_systemexit_does_not_end_the_executor(executor: Executor, gate: Path) -> None:
    future = executor.submit(through_gate, str(gate))

    def fail(_: Future[Any]) -> None:
        raise SystemExit

    future.add_done_callback(fail)
    open_gate(gate)
    future.result(DEADLINE)
    assert executor.submit(square, 2).result(DEADLINE) == 4


def test_thousands_of_them(executor: Executor) -> None:
    count = 5000
    total = 0
    finished = threading.Event()

    def add(future: Future[Any]) -> None:
        nonlocal total
        total += future.result()
        if total == count:
            finished.set()

    for _ in range(count):
        executor.submit(int, 1).add_done_callback(add)
    assert finished.wait(DEADLINE), total


def test_one_may_submit_the_next_call(executor: Executor) -> None:
    ends: list[int] = []

    def follow(future: Future[Any]) -> None:
        ends.append(future.result())
        if future.result() < 1000:
            executor.submit(int.__mul__, future.result(), 2).add_done_callback(follow)

    executor.submit(int, 1).add_done_callback(follow)
    wait_until(lambda: ends and ends[-1] >= 1000, DEADLINE, what="the end of the chain")
    assert ends == [2**n for n in range(11)]


def test_one_may_shut_the_executor_down(service: Any) -> None:
    executor = service.executor()
    down = threading.Event()

    def shut(_: Future[Any]) -> None:
        executor.shutdown(wait=True)  # cannot wait for itself
        down.set()

    executor.submit(square, 1).add_done_callback(shut)
    assert down.wait(DEADLINE)
    executor.shutdown()
