"""An executor that is inherited by a forked child: nothing waits there, whatever the parent did meanwhile."""

from __future__ import annotations

import concurrent.futures
from collections.abc import Iterator

import pytest

from tests.support.forks import held_elsewhere, run_in_child
from tests.support.wait import wait_until
from tests.unit.umbel.scripted import ScriptedService
from umbel import Executor
from umbel.futures import UmbelFuture

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
LIMIT = 10.0


@pytest.fixture
def service() -> Iterator[ScriptedService]:
    service = ScriptedService()
    yield service
    service.release()


def is_explained(future: UmbelFuture) -> bool:
    try:
        future.result()
    except RuntimeError as error:
        return "fork" in str(error) and future.group_id in str(error)
    return False


def finish(executor: Executor, service: ScriptedService, futures: list[UmbelFuture]) -> None:
    """The parent goes on as if nothing had happened."""
    service.release()
    assert executor._session.sender.flush(LIMIT)
    service.finish_all()
    concurrent.futures.wait(futures, LIMIT)
    assert [future.exception(0) for future in futures] == [None] * len(futures)
    executor.shutdown()


def unfinished(executor: Executor, service: ScriptedService) -> list[UmbelFuture]:
    """Return futures whose calls are accepted, being submitted and unsent."""
    accepted = executor.submit(abs, 1)
    wait_until(lambda: accepted.task_id, what="the acceptance")
    service.hold()
    futures = [accepted, executor.submit(abs, 2)]
    wait_until(lambda: len(service.submissions) == 2, what="the second submission")
    return [*futures, executor.submit(abs, 3)]


@pytest.mark.parametrize(
    "way", ["result", "exception", "wait", "as_completed", "stream", "shutdown", "flush"]
)
def test_nothing_waits_in_the_child(service: ScriptedService, way: str) -> None:
    executor = service.executor()
    futures = unfinished(executor, service)
    called: list[object] = []
    futures[0].add_done_callback(called.append)

    def work() -> int:
        if way == "result":
            assert all([is_explained(future) for future in futures])
        elif way == "exception":
            assert all([isinstance(future.exception(), RuntimeError) for future in futures])
        elif way == "wait":
            assert not concurrent.futures.wait(futures)[1]
        elif way == "as_completed":
            assert len(list(concurrent.futures.as_completed(futures))) == 3
        elif way == "stream":
            with pytest.raises(RuntimeError, match="fork"):
                list(futures[0].stream())
        elif way == "shutdown":
            executor.shutdown(cancel_futures=True)
        else:
            executor.flush()
        return 10 + len(called)  # the parent calls them

    assert run_in_child(work, LIMIT) == 10
    finish(executor, service, futures)
    assert called == [futures[0]] and not service.cancelled


def test_locks_that_the_parents_threads_held_are_free_in_the_child(service: ScriptedService) -> None:
    executor = service.executor()
    futures = unfinished(executor, service)
    session = executor._session
    locks = [session.pending.changed, session.sender._changed, session.canceller._changed]
    locks += [session.functions._lock, futures[0]._condition]  # type: ignore[list-item]

    def work() -> int:
        assert is_explained(futures[0]) and not futures[1].cancel()
        with pytest.raises(RuntimeError, match="fork"):
            executor.submit(abs, 1)
        executor.shutdown()
        return 10

    with held_elsewhere(locks):
        assert run_in_child(work, LIMIT) == 10
    finish(executor, service, futures)


def test_a_result_that_had_arrived_stays(service: ScriptedService) -> None:
    executor = service.executor()
    future = executor.submit(abs, 1)
    wait_until(lambda: future.task_id, what="the acceptance")
    service.finish(str(future.task_id), 42)
    assert future.result(LIMIT) == 42
    assert run_in_child(lambda: future.result() + future.result(0) - 42) == 42
    executor.shutdown()
