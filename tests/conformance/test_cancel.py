"""cancel(): before, while and after a call runs, and from everywhere at once."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any

import pytest

from tests.conformance.work import DEADLINE, Service, mark, open_gate, square, through_gate
from tests.support.wait import wait_until
from umbel import Executor


def test_a_call_that_waits(executor: Executor, gate: Path, tmp_path: Path) -> None:
    blockers = [executor.submit(through_gate, str(gate)) for _ in range(8)]
    ran = tmp_path / "ran"
    future = executor.submit(mark, str(ran))
    assert future.cancel()
    assert future.cancelled() and future.done() and not future.running()
    open_gate(gate)
    for blocker in blockers:
        blocker.result(DEADLINE)
    executor.submit(square, 1).result(DEADLINE)
    assert not ran.exists()


def test_a_call_that_runs(executor: Executor, service: Service, gate: Path) -> None:
    future = executor.submit(through_gate, str(gate))
    wait_until(future.running, DEADLINE, what="the call to run")
    assert future.cancel()
    with pytest.raises(CancelledError):
        future.result(DEADLINE)
    with service.client() as client:
        wait_until(
            lambda: client.get_task(str(future.task_id))["state"] == "cancelled",
            DEADLINE,
            what="the task's end",
        )


def test_a_call_that_has_ended(executor: Executor) -> None:
    future = executor.submit(square, 3)
    assert future.result(DEADLINE) == 9
    assert not future.cancel()
    assert not future.cancelled() and future.result() == 9


def test_cancelling_twice(executor: Executor, gate: Path) -> None:
    future = executor.submit(through_gate, str(gate))
    assert future.cancel() and future.cancel()


def test_waiting_for_a_cancelled_call(executor: Executor, gate: Path) -> None:
    future = executor.submit(through_gate, str(gate))
    assert future.cancel()
    with pytest.raises(CancelledError):
        future.result(DEADLINE)
    with pytest.raises(CancelledError):
        future.exception(DEADLINE)


def test_the_service_hears_of_a_call_cancelled_before_it_was_accepted(
    executor: Executor, service: Service, gate: Path
) -> None:
    futures = [executor.submit(through_gate, str(gate)) for _ in range(30)]
    assert all([future.cancel() for future in futures])
    executor.submit(square, 1).result(DEADLINE)
    with service.client() as client:

        def live() -> int:
            states = client.get_group(executor.group_id)["states"]
            return sum(states.get(state, 0) for state in ("queued", "dispatched", "running"))

        wait_until(lambda: live() == 0, DEADLINE, what="the end of all tasks")


def test_one_that_somebody_else_cancels(executor: Executor, service: Service, gate: Path) -> None:
    future = executor.submit(through_gate, str(gate))
    wait_until(lambda: future.task_id, DEADLINE, what="the task's id")
    with service.client() as client:
        client.cancel_task(str(future.task_id))
    with pytest.raises(CancelledError):
        future.result(DEADLINE)
    assert future.cancelled()


def test_many_cancel_while_results_come(executor: Executor) -> None:
    futures = [executor.submit(square, n) for n in range(400)]
    answers: dict[int, list[bool]] = {n: [] for n in range(400)}

    def cancel() -> None:
        for number, future in enumerate(futures):
            answers[number].append(future.cancel())

    threads = [threading.Thread(target=cancel) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE)
    for number, future in enumerate(futures):
        if future.cancelled():
            assert any(answers[number])
            with pytest.raises(CancelledError):
                future.result(DEADLINE)
        else:
            assert future.result(DEADLINE) == number * number
            assert not any(answers[number])


def test_callbacks_of_a_cancelled_call_run_once(executor: Executor, gate: Path) -> None:
    future = executor.submit(through_gate, str(gate))
    seen: list[bool] = []
    future.add_done_callback(lambda done: seen.append(done.cancelled()))
    threads = [threading.Thread(target=future.cancel) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE)
    assert seen == [True]


def test_tasks_of_an_event_loop_are_cancelled_without_blocking_it(
    executor: Executor, service: Service, gate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop_threads: list[threading.Thread] = []
    transport = type(executor._session.client.transport)
    send = transport.send

    def record(self: Any, request: Any) -> Any:
        loop_threads.append(threading.current_thread())
        return send(self, request)

    async def run() -> list[Any]:
        loop = asyncio.get_running_loop()
        calls = [loop.run_in_executor(executor, through_gate, str(gate)) for _ in range(20)]
        assert executor._session.sender.flush(DEADLINE)
        monkeypatch.setattr(transport, "send", record)
        for call in calls:
            call.cancel()
        return await asyncio.gather(*calls, return_exceptions=True)

    ends = asyncio.run(run())
    assert [type(end) for end in ends] == [asyncio.CancelledError] * 20
    assert threading.current_thread() not in loop_threads
    with service.client() as client:
        group = executor.group_id
        wait_until(lambda: client.get_group(group)["finished"], DEADLINE, what="the end of all tasks")


def test_a_map_iterator_closed_after_shutdown_leaves_nothing(service: Service, gate: Path) -> None:
    executor = service.executor()
    results = executor.map(through_gate, [str(gate)] * 300)
    assert executor._session.sender.flush(DEADLINE)
    executor.shutdown(wait=False)
    executor._session.sender.join()
    results.close()  # type: ignore[attr-defined]
    with service.client() as client:
        group = executor.group_id
        wait_until(lambda: client.get_group(group)["finished"], DEADLINE, what="the end of all tasks")
        assert client.get_group(group)["states"] == {"cancelled": 300}
