"""Futures that are waited for: result(), wait(), as_completed(), asyncio."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import (
    ALL_COMPLETED,
    FIRST_COMPLETED,
    FIRST_EXCEPTION,
    TimeoutError,
    as_completed,
    wait,
)
from pathlib import Path

import pytest

from tests.conformance.work import DEADLINE, Service, divide, open_gate, square, through_gate
from tests.support.wait import wait_until
from umbel import Executor


def test_result_gives_up_in_time(executor: Executor, gate: Path) -> None:
    future = executor.submit(through_gate, str(gate), "late")
    started = time.monotonic()
    with pytest.raises(TimeoutError):
        future.result(0.1)
    with pytest.raises(TimeoutError):
        future.exception(0.1)
    assert time.monotonic() - started < DEADLINE
    assert not future.done()
    open_gate(gate)
    assert future.result(DEADLINE) == "late"
    assert future.done() and not future.cancelled()
    assert future.exception() is None


def test_running_is_true_while_the_function_runs(executor: Executor, gate: Path) -> None:
    future = executor.submit(through_gate, str(gate))
    wait_until(future.running, DEADLINE, what="the call to run")
    open_gate(gate)
    future.result(DEADLINE)
    assert not future.running()


def test_wait_for_all(executor: Executor) -> None:
    futures = {executor.submit(square, n) for n in range(20)}
    done, waiting = wait(futures, timeout=DEADLINE, return_when=ALL_COMPLETED)
    assert (done, waiting) == (futures, set())


def test_wait_for_the_first(executor: Executor, gate: Path) -> None:
    late = executor.submit(through_gate, str(gate))
    early = executor.submit(square, 2)
    done, waiting = wait([late, early], timeout=DEADLINE, return_when=FIRST_COMPLETED)
    assert (done, waiting) == ({early}, {late})


def test_wait_for_the_first_exception(executor: Executor, gate: Path) -> None:
    late = executor.submit(through_gate, str(gate))
    good = executor.submit(square, 2)
    good.result(DEADLINE)
    bad = executor.submit(divide, 1, 0)
    done, waiting = wait([late, good, bad], timeout=DEADLINE, return_when=FIRST_EXCEPTION)
    assert (done, waiting) == ({good, bad}, {late})


def test_wait_gives_up_in_time(executor: Executor, gate: Path) -> None:
    future = executor.submit(through_gate, str(gate))
    assert wait([future], timeout=0.1) == (set(), {future})


def test_as_completed_yields_each_future_once(executor: Executor) -> None:
    futures = [executor.submit(square, n) for n in range(50)]
    seen = list(as_completed(futures + futures[:10], timeout=DEADLINE))
    assert len(seen) == 50 and set(seen) == set(futures)


def test_as_completed_yields_what_is_ready_first(executor: Executor, gate: Path) -> None:
    late = executor.submit(through_gate, str(gate))
    early = executor.submit(square, 2)
    found = as_completed([late, early], timeout=DEADLINE)
    assert next(found) is early
    open_gate(gate)
    assert next(found) is late


def test_as_completed_gives_up_in_time(executor: Executor, gate: Path) -> None:
    future = executor.submit(through_gate, str(gate))
    with pytest.raises(TimeoutError):
        list(as_completed([future], timeout=0.1))


def test_wait_and_as_completed_hear_of_cancellation(executor: Executor, gate: Path) -> None:
    future = executor.submit(through_gate, str(gate))
    assert future.cancel()
    assert wait([future], timeout=DEADLINE).done == {future}
    assert list(as_completed([future], timeout=DEADLINE)) == [future]


def test_asyncio_runs_calls_in_it(service: Service) -> None:
    async def main() -> list[int]:
        loop = asyncio.get_running_loop()
        with service.executor() as executor:
            calls = [loop.run_in_executor(executor, square, n) for n in range(20)]
            return await asyncio.wait_for(asyncio.gather(*calls), DEADLINE)

    assert asyncio.run(main()) == [n * n for n in range(20)]


def test_asyncio_cancels_calls(executor: Executor, gate: Path) -> None:
    async def main() -> None:
        future = executor.submit(through_gate, str(gate))
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(asyncio.wrap_future(future), 0.1)
        assert future.cancelled()

    asyncio.run(main())
