"""How results become futures."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import CancelledError, TimeoutError

import pytest

from tests.support.wait import wait_until
from tests.unit.umbel.scripted import ScriptedService, ScriptedTransport
from umbel import Client, Executor, TaskError
from umbel.futures import UmbelFuture
from umbel.protocol.errors import NotFound, ServiceUnavailable, TooMany, Unauthorized
from umbel.submit import follower
from umbel.submit.follower import Follower
from umbel.submit.pending import Pending


@pytest.fixture
def service() -> Iterator[ScriptedService]:
    service = ScriptedService()
    yield service
    service.release()


@pytest.fixture
def executor(service: ScriptedService) -> Iterator[Executor]:
    executor = service.executor()
    yield executor
    service.release()
    executor.shutdown(wait=False, cancel_futures=True)


def test_results_that_come_before_their_submission_is_answered(service: ScriptedService) -> None:
    service.echo = True
    with service.executor() as executor:
        futures = [executor.submit(abs, n) for n in range(100)]
        for future in futures:
            assert isinstance(future.result(10), int)
        assert all(future.task_id and future.record for future in futures)


def test_there_is_no_poll_before_the_group_exists(service: ScriptedService, executor: Executor) -> None:
    service.hold()
    future = executor.submit(abs, 1)
    wait_until(lambda: service.submissions, what="the submission")
    assert service.polls == []
    service.release()
    wait_until(lambda: service.polls, what="the first poll")
    service.finish(str(future.task_id), 5)
    assert future.result(10) == 5


def test_polls_wait_instead_of_asking_again_and_again(service: ScriptedService, executor: Executor) -> None:
    future = executor.submit(abs, 1)
    wait_until(lambda: future.task_id and service.polls, what="the poll")
    with pytest.raises(TimeoutError):
        future.result(0.3)
    assert len(service.polls) == 1
    assert float((service.polls[0].query or {})["wait"]) == follower.WAIT


def test_between_the_calls_of_a_sequence_there_is_no_poll(
    service: ScriptedService, executor: Executor
) -> None:
    service.echo = True
    for number in range(10):
        executor.submit(abs, number).result(10)
    with pytest.raises(AssertionError):
        wait_until(lambda: len(service.polls) > 10, timeout=0.3)
    assert len(service.polls) == 10


def test_a_submission_is_answered_before_its_poll_is_sent(
    service: ScriptedService, executor: Executor
) -> None:
    service.echo = True
    executor.submit(abs, 1).result(10)
    service.hold()
    future = executor.submit(abs, 2)
    wait_until(lambda: len(service.submissions) == 2, what="the submission")
    assert len(service.polls) == 1
    service.release()
    assert future.result(10) == 0
    assert len(service.polls) == 2


def test_results_come_in_pages(service: ScriptedService, executor: Executor) -> None:
    futures = [executor.submit(abs, n) for n in range(2500)]
    wait_until(lambda: len(service.task_ids) == 2500, what="all tasks")
    with service.changed:  # all at once
        for future, task_id in zip(futures, service.task_ids):
            service.finish(task_id, task_id)
    assert {future.result(10) for future in futures} == set(service.task_ids)
    cursors = [(poll.query or {})["after"] for poll in service.polls]
    assert cursors == sorted(cursors)


def test_other_peoples_tasks_in_the_group_are_passed_over(
    service: ScriptedService, executor: Executor
) -> None:
    future = executor.submit(abs, 1)
    wait_until(lambda: future.task_id, what="the task")
    service.finish("somebody else's")
    service.finish(str(future.task_id), 7)
    assert future.result(10) == 7


def test_a_service_that_stays_away_ends_the_futures(service: ScriptedService, executor: Executor) -> None:
    first = executor.submit(abs, 1)
    wait_until(lambda: service.polls, what="the poll")
    service.results_fail = [ServiceUnavailable("away for long")]
    service.finish("wake the poll")
    with pytest.raises(ServiceUnavailable, match="Executor.reload"):
        first.result(10)
    second = executor.submit(abs, 2)  # and it goes on when the service is back
    wait_until(lambda: second.task_id, what="the task")
    service.finish(str(second.task_id), 8)
    assert second.result(10) == 8


def test_a_service_without_a_place_for_the_poll_fails_no_future(
    service: ScriptedService, executor: Executor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follower, "BUSY_PAUSE", 0.02)
    service.results_fail = [
        TooMany("no place"),
        *(TooMany("", details={"retry_after": 0.01}) for _ in range(20)),
    ]
    future = executor.submit(abs, 1)
    wait_until(lambda: not service.results_fail and len(service.polls) == 22, what="the poll that waits")
    assert not future.done()
    service.finish(str(future.task_id), 5)
    assert future.result(10) == 5


def test_a_restored_database_is_read_from_its_first_result(
    service: ScriptedService, executor: Executor
) -> None:
    service.epoch = "a"
    done, kept, lost, running = [executor.submit(abs, number) for number in range(4)]
    wait_until(lambda: len(service.task_ids) == 4 and running.task_id, what="the tasks")
    service.finish(str(done.task_id), 1)
    assert done.result(10) == 1
    wait_until(lambda: (service.polls[-1].query or {}).get("epoch") == "a", what="a poll with the epoch")
    with service.changed:  # the completion numbers begin again, and a task is gone
        service.epoch = "b"
        service.rows.clear()
        service.task_ids.remove(str(lost.task_id))
        service.finish(str(kept.task_id), 2)
        service.finish(str(done.task_id), "another value")
    assert kept.result(10) == 2
    error = lost.exception(10)
    assert isinstance(error, NotFound) and error.code == "TASK_NOT_FOUND" and str(lost.task_id) in str(error)
    assert done.result() == 1
    assert executor._session.pending.waiting() == [running] and not running.done()
    service.finish(str(running.task_id), 3)
    assert running.result(10) == 3
    later = executor.submit(abs, 4)
    wait_until(lambda: later.task_id, what="the task")
    service.finish(str(later.task_id), 4)
    assert later.result(10) == 4
    assert (service.polls[-1].query or {})["epoch"] == "b"


@pytest.mark.parametrize(
    "error",
    [Unauthorized("revoked"), NotFound("no group", code="GROUP_NOT_FOUND"), ZeroDivisionError("defect")],
)
def test_whatever_ends_the_polls_ends_the_futures(
    service: ScriptedService, executor: Executor, error: Exception
) -> None:
    future = executor.submit(abs, 1)
    wait_until(lambda: service.polls, what="the poll")
    service.results_fail = [error]  # type: ignore[list-item]
    service.finish("wake the poll")
    end = future.exception(10)
    assert (type(end), str(end)) == (type(error), str(error))


def test_a_group_that_is_gone_is_followed_anew(service: ScriptedService, executor: Executor) -> None:
    first = executor.submit(abs, 1)
    wait_until(lambda: service.polls, what="the poll")
    service.results_fail = [NotFound("wiped", code="GROUP_NOT_FOUND")]
    service.finish("wake the poll")
    with pytest.raises(NotFound):
        first.result(10)
    service.rows.clear()  # completion numbers begin again
    second = executor.submit(abs, 2)
    wait_until(lambda: second.task_id, what="the task")
    service.finish(str(second.task_id), 9)
    assert second.result(10) == 9


def test_a_result_that_cannot_be_loaded_is_its_futures_exception(
    service: ScriptedService, executor: Executor
) -> None:
    bad, good = executor.submit(abs, 1), executor.submit(abs, 2)
    wait_until(lambda: bad.task_id and good.task_id, what="the tasks")
    service.finish(str(bad.task_id), result="UGdhcmJhZ2U=")
    service.finish(str(good.task_id), 3)
    assert getattr(bad.exception(10), "code", None) == "DESERIALIZE_ERROR"
    assert good.result(10) == 3


@pytest.mark.parametrize(
    ("fields", "code", "message"),
    [
        (
            {"state": "failed", "code": "WORKER_LOST", "message": "node n1 died"},
            "WORKER_LOST",
            "node n1 died",
        ),
        ({"state": "failed", "code": "MEMORY_LIMIT"}, "MEMORY_LIMIT", "memory"),
        ({"state": "failed", "code": "CODE_OF_THE_FUTURE"}, "CODE_OF_THE_FUTURE", "failed"),
        ({"state": "expired"}, "EXPIRED", "not started"),
    ],
)
def test_ends_without_a_result(
    service: ScriptedService, executor: Executor, fields: dict[str, str], code: str, message: str
) -> None:
    future = executor.submit(abs, 1)
    wait_until(lambda: future.task_id, what="the task")
    service.finish(str(future.task_id), **{"result": None, **fields})
    with pytest.raises(TaskError, match=message) as caught:
        future.result(10)
    assert (caught.value.code, caught.value.task_id) == (code, future.task_id)
    assert future.record is not None and future.record["state"] == fields["state"]


def test_cancelled_at_the_service(service: ScriptedService, executor: Executor) -> None:
    future = executor.submit(abs, 1)
    wait_until(lambda: future.task_id, what="the task")
    service.finish(str(future.task_id), state="cancelled", result=None)
    with pytest.raises(CancelledError):
        future.result(10)


@pytest.fixture
def alone(service: ScriptedService) -> Iterator[tuple[Follower, Pending]]:
    """A follower without a session that would close it."""
    pending = Pending()
    alone = Follower(Client(transport=ScriptedTransport(service)), pending, "a group")
    yield alone, pending
    pending.end()
    pending.fail_all(CancelledError())
    alone.close()


def test_a_follower_is_started_once_and_not_after_its_end(alone: tuple[Follower, Pending]) -> None:
    follower, _ = alone
    assert not follower.is_current_thread
    follower.start()
    thread = follower._thread
    follower.start()
    assert thread is not None and follower._thread is thread
    follower.close()
    follower._thread = None
    follower.start()
    assert follower._thread is None
    follower.close()  # it has no thread to wait for


def test_closing_ends_a_follower_that_has_nothing_to_poll_for(alone: tuple[Follower, Pending]) -> None:
    follower, pending = alone
    follower.start()
    with pytest.raises(AssertionError):  # it waits in its thread
        wait_until(lambda: not follower._thread.is_alive(), timeout=0.1)  # type: ignore[union-attr]
    follower.close()
    assert not follower._thread.is_alive()  # type: ignore[union-attr]
    assert follower._transport.closed  # type: ignore[attr-defined]


def test_closing_ends_a_poll(alone: tuple[Follower, Pending], service: ScriptedService) -> None:
    follower, pending = alone
    service.exists = True
    future = waiting(pending, "t1")
    follower.start()
    wait_until(lambda: service.polls, what="the poll")
    follower.close()
    assert not follower._thread.is_alive() and not future.done()  # type: ignore[union-attr]


def test_a_follower_ends_when_no_result_can_arrive(
    alone: tuple[Follower, Pending], service: ScriptedService
) -> None:
    follower, pending = alone
    service.exists = True
    future = waiting(pending, "t1")
    follower.start()
    service.finish("t1", 5)
    assert future.result(10) == 5
    pending.end()
    follower._thread.join(10)  # type: ignore[union-attr]
    assert not follower._thread.is_alive()  # type: ignore[union-attr]
    assert follower._transport.closed  # type: ignore[attr-defined]


def test_a_callback_may_close_the_follower(alone: tuple[Follower, Pending], service: ScriptedService) -> None:
    follower, pending = alone
    service.exists = True
    future = waiting(pending, "t1")
    seen: list[object] = []

    def close(_: object) -> None:
        try:
            follower.close()
        except RuntimeError as error:
            seen.append(error)
        seen.append(follower.is_current_thread)

    future.add_done_callback(close)
    follower.start()
    service.finish("t1", 5)
    wait_until(lambda: seen, what="the callback")
    assert seen == [True]
    follower._thread.join(10)  # type: ignore[union-attr]
    assert not follower._thread.is_alive()  # type: ignore[union-attr]


def waiting(pending: Pending, task_id: str) -> UmbelFuture:
    """Return a future that waits for a task."""
    executor = ScriptedService().executor()
    future = UmbelFuture(executor._session, "a group")
    future.task_id = task_id
    pending.expect([future])
    return future


@pytest.mark.parametrize("retry_after", [0, -1, "soon", None])
def test_a_busy_service_that_names_no_pause_is_not_polled_at_once(
    service: ScriptedService, executor: Executor, retry_after: object
) -> None:
    service.results_fail = [TooMany("", details={"retry_after": retry_after})]
    future = executor.submit(abs, 1)
    wait_until(lambda: service.polls, what="the first poll")
    with pytest.raises(AssertionError):
        wait_until(lambda: len(service.polls) > 1, timeout=0.1)
    assert not future.done()


def test_the_pause_that_a_busy_service_names_is_kept_and_ends_with_the_executor(
    service: ScriptedService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follower, "BUSY_PAUSE", 0.01)
    service.results_fail = [TooMany("", details={"retry_after": 60.0})]
    executor = service.executor()
    executor.submit(abs, 1)
    wait_until(lambda: service.polls, what="the first poll")
    with pytest.raises(AssertionError):
        wait_until(lambda: len(service.polls) > 1, timeout=0.1)
    executor._session.close()
    executor._session.follower.close()
    assert not executor._session.follower._thread.is_alive()  # type: ignore[union-attr]


def test_a_pause_ends_when_no_result_can_arrive(
    alone: tuple[Follower, Pending], service: ScriptedService
) -> None:
    follower, pending = alone
    service.results_fail = [TooMany("", details={"retry_after": 60.0})]
    future = waiting(pending, "t1")
    follower.start()
    wait_until(lambda: service.polls, what="the first poll")
    pending.forget([future])
    pending.end()
    follower._thread.join(10)  # type: ignore[union-attr]
    assert not follower._thread.is_alive()  # type: ignore[union-attr]


def test_the_first_epoch_is_no_restored_database(
    service: ScriptedService, executor: Executor, caplog: pytest.LogCaptureFixture
) -> None:
    service.epoch, service.echo = "a", True
    for number in range(3):
        executor.submit(abs, number).result(10)
    assert not caplog.records
    service.epoch = "b"
    executor.submit(abs, 3).result(10)
    wait_until(lambda: "restored" in caplog.text, what="the warning")
