"""How calls become submissions."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from typing import Any

import pytest

from tests.support.wait import wait_until
from tests.unit.umbel.scripted import ScriptedService
from umbel import Executor
from umbel.api.options import Options
from umbel.api.transport import Request
from umbel.protocol.errors import BadRequest, NotFound, ServiceError, ServiceUnavailable, TooLarge, TooMany
from umbel.serialize import dump_call, dump_function
from umbel.submit import calls, sender
from umbel.submit.calls import Batch, Part


def square(number: int) -> int:
    return number * number


def cube(number: int) -> int:
    return number**3


@pytest.fixture
def service() -> Iterator[ScriptedService]:
    service = ScriptedService()
    yield service
    service.release()


def close(executor: Executor, service: ScriptedService) -> None:
    service.release()
    executor.shutdown(wait=False)
    assert executor._session.sender.flush(10)
    service.finish_all()
    executor.shutdown()


def test_a_lone_call_goes_at_once_and_what_comes_meanwhile_goes_together(service: ScriptedService) -> None:
    service.hold()
    executor = service.executor()
    executor.submit(square, 0)
    wait_until(lambda: service.submissions, what="the first submission")
    for number in range(1, 500):
        executor.submit(square, number)
    close(executor, service)
    assert service.batches() == [1, 499]


def test_a_slow_source_of_arguments_does_not_hold_the_first_call(service: ScriptedService) -> None:
    started = threading.Event()

    def numbers() -> Iterator[int]:
        yield 0
        started.wait(10)
        yield 1

    executor = service.executor()
    thread = threading.Thread(target=executor.map, args=(square, numbers()))
    thread.start()
    wait_until(lambda: service.batches() == [1], what="the first call")
    started.set()
    thread.join(10)
    close(executor, service)
    assert service.batches() == [1, 1]


def functions_of(request: Request) -> list[tuple[str, int]]:
    """Functions and numbers of calls of a submission."""
    if "function_id" in request.body:
        return [(request.body["function_id"], len(request.blobs or ()))]
    return [(each["function_id"], each["calls"]) for each in request.body["functions"]]


def test_a_submission_has_the_calls_of_all_functions(service: ScriptedService) -> None:
    service.hold()
    executor = service.executor()
    executor.submit(square, 0)
    wait_until(lambda: service.submissions, what="the first submission")
    for number in range(300):
        executor.submit((square, cube, abs)[number % 3], number)
    close(executor, service)
    assert service.batches() == [1, 300]
    assert functions_of(service.submissions[0]) == [("f1", 1)]
    assert functions_of(service.submissions[1]) == [("f1", 100), ("f2", 100), ("f3", 100)]
    payloads = [dump_call((number,), {}) for first in range(3) for number in range(first, 300, 3)]
    assert list(service.submissions[1].blobs or ()) == payloads
    assert [name.rpartition(".")[2] for name in service.functions] == ["square", "cube", "abs"]


def test_functions_take_turns(service: ScriptedService) -> None:
    """Ten thousand calls of one function do not make another function's only call wait."""
    service.hold()
    executor = service.executor(batch_size=10)
    executor.submit(square, 0)
    wait_until(lambda: service.submissions, what="the first submission")
    for number in range(30):
        executor.submit(square, number)
    for number in range(12):
        executor.submit(cube, number)
    close(executor, service)
    functions = [functions_of(request) for request in service.submissions]
    both = [("f1", 5), ("f2", 5)]
    assert functions == [[("f1", 1)], both, both, [("f1", 8), ("f2", 2)], [("f1", 10)], [("f1", 2)]]


def test_a_rejected_function_does_not_cost_the_calls_of_others(service: ScriptedService) -> None:
    service.refuse = lambda request: (
        BadRequest("too wide", code="VALIDATION_ERROR")
        if any(id == "f2" for id, _ in functions_of(request))
        else None
    )
    service.hold()
    executor = service.executor()
    executor.submit(square, 0)
    wait_until(lambda: service.submissions, what="the first submission")
    futures = [executor.submit(fn, 2) for fn in (square, cube, abs) for _ in range(2)]
    close(executor, service)
    failed = [isinstance(future.exception(10), BadRequest) for future in futures]
    assert failed == [False, False, True, True, False, False]
    assert len({request.key for request in service.submissions}) == len(service.submissions) == 5


def test_a_rejected_endpoint_is_asked_for_once(service: ScriptedService) -> None:
    service.refuse = lambda _: NotFound("no such endpoint", code="ENDPOINT_NOT_FOUND")
    executor = service.executor(batch_interval=60.0)
    futures = [executor.submit(fn, 2) for fn in (square, cube, abs)]
    close(executor, service)
    assert all(isinstance(future.exception(10), NotFound) for future in futures)
    assert len(service.submissions) == 1


def test_batch_size(service: ScriptedService) -> None:
    service.hold()
    executor = service.executor(batch_size=100)
    for number in range(250):
        executor.submit(square, number)
    close(executor, service)
    assert sum(service.batches()) == 250 and max(service.batches()) <= 100


@pytest.mark.parametrize("batch_size", [0, -1, 10_001])
def test_batch_size_is_bounded(service: ScriptedService, batch_size: int) -> None:
    with pytest.raises(ValueError, match="batch_size"):
        service.executor(batch_size=batch_size)


def test_batch_interval_collects_and_a_full_batch_does_not_wait(
    service: ScriptedService, monkeypatch: pytest.MonkeyPatch
) -> None:
    executor = service.executor(batch_interval=60.0, batch_size=10)
    changed, collecting = executor._session.sender._changed, threading.Event()
    wait_for = changed.wait_for
    monkeypatch.setattr(changed, "wait_for", lambda *args: (collecting.set(), wait_for(*args))[1])
    executor.submit(square, 0)
    assert collecting.wait(10)
    for number in range(1, 10):
        executor.submit(square, number)
    wait_until(lambda: service.batches() == [10], what="the full batch")
    executor.submit(square, 11)
    close(executor, service)  # what is left goes at once when nothing more can come
    assert service.batches() == [10, 1]


def test_a_collected_batch_goes_in_one_submission(service: ScriptedService) -> None:
    size = 2 * sender.FIRST_CALLS
    executor = service.executor(batch_interval=60.0, batch_size=size)
    executor.map(square, range(size))
    wait_until(lambda: service.submissions, what="the submission")
    close(executor, service)
    assert service.batches() == [size]


def test_large_arguments_are_spread_over_submissions(service: ScriptedService) -> None:
    service.hold()
    executor = service.executor()
    data = bytes(3 * 1024 * 1024)
    for _ in range(7):
        executor.submit(len, data)
    close(executor, service)
    assert sum(service.batches()) == 7
    for request in service.submissions:
        assert sum(map(len, request.blobs or ())) <= calls.BATCH_BYTES


def test_the_submissions_of_a_burst_grow(service: ScriptedService) -> None:
    service.hold()
    executor = service.executor()
    executor.map(square, range(2000))
    close(executor, service)
    first, *others = service.batches()
    assert sum(service.batches()) == 2000
    assert first <= sender.FIRST_CALLS and max(others) <= sender.FIRST_CALLS * sender.GROWTH ** len(others)


def test_every_burst_begins_with_a_small_submission(
    service: ScriptedService, monkeypatch: pytest.MonkeyPatch
) -> None:
    executor = service.executor()
    sending = executor._session.sender
    sending.start()
    thread = sending._thread
    for _ in range(2):
        wait_until(lambda: sending._idle, what="an idle sender")
        with monkeypatch.context() as patched:
            patched.setattr(sending, "_wake", lambda: None)
            executor.map(square, range(300))
        with sending._changed:
            sending._wake()
        assert sending.flush(10)
    assert service.batches() == [sender.FIRST_CALLS, 300 - sender.FIRST_CALLS] * 2
    assert sending.total == 600 and sending._thread is thread
    close(executor, service)


def test_one_call_may_be_larger_than_a_usual_submission(service: ScriptedService) -> None:
    executor = service.executor()
    executor.submit(len, bytes(calls.BATCH_BYTES + 1))
    close(executor, service)
    assert service.batches() == [1]


def test_each_submission_has_its_own_key_and_the_same_group(service: ScriptedService) -> None:
    executor = service.executor(batch_size=5, priority=3, retry_on=[KeyError, "a.B"], tags=["x"])
    for number in range(20):
        executor.submit(square, number)
    close(executor, service)
    assert len({request.key for request in service.submissions}) == len(service.submissions) >= 4
    assert {request.body["group_id"] for request in service.submissions} == {executor.group_id}
    assert service.submissions[0].body["options"] == {
        "priority": 3,
        "retry_on": ["KeyError", "a.B"],
        "tags": ["x"],
    }


def test_submit_waits_while_too_much_is_unsent(
    service: ScriptedService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sender, "MAX_UNSENT_CALLS", 10)
    service.hold()
    executor = service.executor()
    done = []

    def submit() -> None:
        for number in range(30):
            executor.submit(square, number)
            done.append(number)

    thread = threading.Thread(target=submit)
    thread.start()
    wait_until(lambda: len(done) >= 10, what="ten calls")
    thread.join(0.2)
    assert thread.is_alive() and len(done) <= 20  # ten on their way, ten unsent
    service.release()
    thread.join(10)
    assert len(done) == 30
    close(executor, service)
    assert sum(service.batches()) == 30


def test_waiting_for_room_ends(service: ScriptedService, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sender, "MAX_UNSENT_BYTES", 1000)
    service.hold()
    executor = service.executor(submit_timeout=0.1)
    with pytest.raises(TooMany, match=r"0\.1 s"):
        for _ in range(10):
            executor.submit(len, bytes(400))
    close(executor, service)


def test_shutdown_wakes_who_waits_for_room(service: ScriptedService, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sender, "MAX_UNSENT_CALLS", 1)
    service.hold()
    executor = service.executor()
    refused = threading.Event()

    def submit() -> None:
        try:
            for number in range(10):
                executor.submit(square, number)
        except RuntimeError:
            refused.set()

    thread = threading.Thread(target=submit)
    thread.start()
    wait_until(lambda: service.submissions, what="the first submission")
    executor.shutdown(wait=False)
    assert refused.wait(10)
    thread.join(10)
    close(executor, service)


@pytest.mark.parametrize(
    "error",
    [
        TooLarge("too large"),
        NotFound("no endpoint", code="ENDPOINT_NOT_FOUND"),
        BadRequest("bad", code="VALIDATION_ERROR"),
    ],
)
def test_a_refused_submission_is_the_end_of_its_own_futures_only(
    service: ScriptedService, error: ServiceError
) -> None:
    service.hold()
    service.refuse = lambda request: error if len(request.blobs or ()) == 2 else None
    executor = service.executor(batch_size=2)
    futures = [executor.submit(square, 0)]
    wait_until(lambda: service.submissions, what="the first submission")
    futures += [executor.submit(square, 1), executor.submit(square, 2), executor.submit(square, 3)]
    close(executor, service)
    assert service.batches() == [1, 2, 1]
    ends = [future.exception(10) for future in futures]
    assert [ends[0], ends[3]] == [None, None]
    assert [(type(end), str(end)) for end in ends[1:3]] == [(type(error), str(error))] * 2
    assert ends[1] is not ends[2]


def test_a_full_queue_is_waited_for(service: ScriptedService) -> None:
    left = [TooMany("full", code="QUEUE_FULL")] * 3
    service.refuse = lambda _: left.pop() if left else None
    service.echo = True
    with service.executor() as executor:
        assert executor.submit(square, 1).result(10) == 0
    assert len(service.submissions) == 4


def test_a_full_queue_is_waited_for_no_longer_than_allowed(service: ScriptedService) -> None:
    service.refuse = lambda _: TooMany("full", code="QUEUE_FULL")
    with service.executor(submit_timeout=0.1) as executor:
        with pytest.raises(TooMany):
            executor.submit(square, 1).result(10)


def test_a_function_that_was_deleted_is_registered_again(service: ScriptedService) -> None:
    left = [NotFound("no function", code="FUNCTION_NOT_FOUND")]
    service.refuse = lambda _: left.pop() if left else None
    service.echo = True
    with service.executor() as executor:
        assert executor.submit(square, 1).result(10) == 0
    assert [request.body["function_id"] for request in service.submissions] == ["f1", "f2"]


def test_a_defect_of_the_client_leaves_no_future_waiting(service: ScriptedService) -> None:
    def fail(_: Request) -> None:
        raise ZeroDivisionError("a defect")

    service.refuse = fail
    with service.executor() as executor:
        with pytest.raises(ZeroDivisionError):
            executor.submit(square, 1).result(10)


def test_a_call_cancelled_before_it_is_sent_is_never_sent(service: ScriptedService) -> None:
    service.hold()
    executor = service.executor()
    executor.submit(square, 0)
    wait_until(lambda: service.submissions, what="the first submission")
    unsent = [executor.submit(square, number) for number in range(5)]
    assert all([future.cancel() for future in unsent[1:]])
    close(executor, service)
    assert service.batches() == [1, 1]
    assert service.cancelled == []


def test_calls_that_are_all_cancelled_before_they_are_sent_are_no_error(
    service: ScriptedService, caplog: pytest.LogCaptureFixture
) -> None:
    service.hold()
    executor = service.executor()
    executor.submit(square, 0)
    wait_until(lambda: service.submissions, what="the first submission")
    assert executor.submit(square, 1).cancel()
    close(executor, service)
    assert service.batches() == [1] and not caplog.records
    assert executor._session.sender._take() is None, "nor are calls that were taken meanwhile"


def test_a_call_cancelled_on_its_way_is_cancelled_at_the_service(service: ScriptedService) -> None:
    service.hold()
    executor = service.executor()
    future = executor.submit(square, 0)
    wait_until(lambda: service.submissions, what="the submission")
    assert future.cancel()
    with pytest.raises(CancelledError):
        future.result(10)
    service.release()
    wait_until(lambda: service.cancelled == service.task_ids != [], what="the cancellation")
    close(executor, service)


def test_cancelling_all_ends_a_submission_that_is_refused_again_and_again(service: ScriptedService) -> None:
    service.refuse = lambda _: TooMany("full", code="QUEUE_FULL")
    executor = service.executor()
    future = executor.submit(square, 1)
    wait_until(lambda: service.submissions, what="the submission")
    service.refuse = lambda request: (
        TooMany("full")
        if request.given_up is None or not request.given_up.is_set()
        else BadRequest("given up")
    )
    executor.shutdown(cancel_futures=True)
    assert future.cancelled()


def rejected_in_callback(
    service: ScriptedService, callback: Callable[[Executor], None], **options: Any
) -> list[BaseException | None]:
    """Run something in a callback of a rejected call, which runs in the sending thread; return its error."""
    executor = service.executor(**options)
    ends: list[BaseException | None] = []

    def run(_: object) -> None:
        try:
            callback(executor)
            ends.append(None)
        except BaseException as error:
            ends.append(error)

    service.refuse = lambda request: BadRequest("bad") if len(service.submissions) == 1 else None
    service.hold()
    future = executor.submit(square, 0)
    assert not executor._session.sender.is_current_thread
    future.add_done_callback(run)
    service.release()
    wait_until(lambda: ends, what="the end of the callback")
    close(executor, service)
    return ends


def test_a_callback_of_a_rejected_call_may_submit_any_number_of_calls(
    service: ScriptedService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sender, "MAX_UNSENT_CALLS", 5)

    def submit(executor: Executor) -> None:
        for number in range(20):
            executor.submit(square, number)

    assert rejected_in_callback(service, submit, submit_timeout=1.0) == [None]
    assert sum(service.batches()) == 21


def test_a_callback_of_a_rejected_call_cannot_wait_for_the_sending_thread(service: ScriptedService) -> None:
    def stop(executor: Executor) -> None:
        executor._session.sender.wait_for_answer(60.0)
        executor._session.sender.join()
        executor.shutdown()

    assert rejected_in_callback(service, stop) == [None]
    service.submissions.clear()
    (error,) = rejected_in_callback(service, lambda executor: executor.flush())
    assert isinstance(error, RuntimeError) and "callback" in str(error)


@pytest.mark.parametrize("number", [0, 2])
def test_an_answer_with_another_number_of_tasks_fails_its_calls(
    service: ScriptedService, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    executor = service.executor()
    monkeypatch.setattr(executor._session.client, "submit", lambda *_, **__: {"task_ids": ["t"] * number})
    future = executor.submit(square, 1)
    error = future.exception(10)
    assert isinstance(error, ServiceUnavailable) and f"{number} task ids for 1 calls" in str(error)
    assert future.task_id is None
    executor.shutdown()


def test_a_function_that_is_deleted_again_and_again_is_registered_once_more_only(
    service: ScriptedService,
) -> None:
    service.refuse = lambda _: NotFound("no function", code="FUNCTION_NOT_FOUND")
    with service.executor() as executor:
        error = executor.submit(square, 1).exception(10)
    assert isinstance(error, NotFound) and len(service.submissions) == 2


def test_the_first_failure_is_reported_once(service: ScriptedService) -> None:
    service.refuse = lambda request: BadRequest(f"number {len(service.submissions)}")
    executor = service.executor()
    sending = executor._session.sender
    assert sending.take_failure() is None
    futures = []
    for _ in range(2):
        futures.append(executor.submit(square, 1))
        assert sending.flush(10)
    error = sending.take_failure()
    assert isinstance(error, BadRequest) and "number 1" in str(error)
    assert error is not futures[0].exception(10)
    assert sending.take_failure() is None
    executor.shutdown()


def test_what_is_unsent_is_taken_in_order_and_not_sent_again(service: ScriptedService) -> None:
    service.hold()
    executor = service.executor(submit_timeout=60.0)
    sending = executor._session.sender
    futures = [executor.submit(square, 0)]
    wait_until(lambda: service.submissions, what="the first submission")
    futures += [executor.submit(square, 1), executor.submit(cube, 2)]
    assert not sending.flush(0.01)
    batches = sending.take_unsent()
    assert [future for batch in batches for future in batch.futures] == futures
    assert [batch.tried for batch in batches] == [True, False], "those of two functions share a submission"
    given_up = service.submissions[0].given_up
    assert given_up is not None and given_up.is_set(), "the submission is not repeated"
    service.release()
    assert sending.flush(10) and sending.take_unsent() == []
    assert len(service.submissions) == 1
    executor.shutdown(wait=False, cancel_futures=True)


@pytest.mark.parametrize("method", ["take_unsent", "discard_unsent"])
def test_taking_what_is_unsent_makes_room(
    service: ScriptedService, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    monkeypatch.setattr(sender, "MAX_UNSENT_CALLS", 1)
    service.hold()
    executor = service.executor()
    executor.submit(square, 0)
    wait_until(lambda: service.submissions, what="the first submission")
    executor.submit(square, 1)
    thread = threading.Thread(target=executor.submit, args=(square, 2))
    thread.start()
    thread.join(0.1)
    assert thread.is_alive()
    getattr(executor._session.sender, method)()
    thread.join(10)
    assert not thread.is_alive()
    close(executor, service)


def test_there_is_room_as_soon_as_calls_are_being_submitted(
    service: ScriptedService, monkeypatch: pytest.MonkeyPatch
) -> None:
    executor = service.executor()
    sending = executor._session.sender
    with monkeypatch.context() as patched:
        patched.setattr(sender, "MAX_UNSENT_CALLS", 1)
        patched.setattr(sending, "start", lambda: None)
        executor.submit(square, 0)
        thread = threading.Thread(target=executor.submit, args=(square, 1))
        thread.start()
        thread.join(0.1)
        assert thread.is_alive()
        assert sending._take() is not None
        thread.join(5)
        assert not thread.is_alive()
    sending.start()
    close(executor, service)


def test_the_first_answer_is_waited_for(service: ScriptedService) -> None:
    service.hold()
    executor = service.executor()
    sending = executor._session.sender
    began = time.monotonic()
    sending.wait_for_answer(60.0)  # there is no call
    executor.submit(square, 0)
    wait_until(lambda: service.submissions, what="the first submission")
    assert time.monotonic() - began < 10
    done = threading.Event()
    thread = threading.Thread(target=lambda: (sending.wait_for_answer(60.0), done.set()))
    thread.start()
    assert not done.wait(0.1)
    service.release()
    assert done.wait(10)
    thread.join()
    close(executor, service)


def test_joining_waits_for_the_sending_thread(
    service: ScriptedService, monkeypatch: pytest.MonkeyPatch
) -> None:
    executor = service.executor()
    sending = executor._session.sender
    sending.join()  # it has no thread
    ending = threading.Event()
    monkeypatch.setattr(sending, "_ended", lambda: ending.wait(10))
    sending.start()
    thread = sending._thread
    assert thread is not None
    sending.close()
    sending.join(0.01)
    assert thread.is_alive()
    ending.set()
    sending.join(10)
    assert not thread.is_alive()


def test_a_late_answer_to_another_submission_extends_the_wait_of_the_next(service: ScriptedService) -> None:
    """``submit_timeout`` counts from when the service last accepted calls."""
    executor = service.executor(submit_timeout=60.0)
    submitter = executor._session.sender._submitter
    executor.submit(square, 0)
    executor.flush(10)
    old = calls.Call(b"", executor._session.future(), time.monotonic() - 3600)
    left: list[float | None] = []
    service.refuse = lambda request: left.append(request.patience)  # type: ignore[func-returns-value]
    submitter.submit(Batch(Options(), [Part(dump_function(square), [old])]), threading.Event())
    assert left[0] is not None and 50 < left[0] <= 60
    submitter._accepted = 0.0
    submitter.submit(Batch(Options(), [Part(dump_function(square), [old])]), threading.Event())
    assert left[1] is not None and 0 < left[1] < 1
    executor.shutdown(wait=False, cancel_futures=True)
