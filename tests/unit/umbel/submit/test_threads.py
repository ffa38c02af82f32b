"""The threads behind an executor survive unexpected errors, which cost exactly the futures concerned."""

from __future__ import annotations

import threading
import traceback
from collections.abc import Iterator
from concurrent.futures import Future
from typing import Any

import pytest

from tests.support.wait import wait_until
from tests.unit.umbel.scripted import ScriptedService, ScriptedTransport
from umbel import Executor
from umbel.api.transport import Request
from umbel.protocol.errors import ServiceUnavailable, UmbelError
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


def answer(monkeypatch: pytest.MonkeyPatch, end: str, value: Any) -> None:
    """Let the next request whose path has this end be answered with ``value``, or raise it."""
    send, left = ScriptedTransport.send, [value]

    def scripted(self: ScriptedTransport, request: Request) -> Any:
        if request.path.endswith(end) and left:
            found = left.pop()
            if isinstance(found, BaseException):
                raise found
            return found
        return send(self, request)

    monkeypatch.setattr(ScriptedTransport, "send", scripted)


UNEXPECTED = [None, {}, [], {"task_ids": None}, ZeroDivisionError("defect"), SystemExit(), MemoryError()]


@pytest.mark.parametrize("value", [*UNEXPECTED, {"task_ids": []}, {"task_ids": ["1", "2"]}])
def test_the_sender(
    service: ScriptedService, executor: Executor, monkeypatch: pytest.MonkeyPatch, value: Any
) -> None:
    service.echo = True
    answer(monkeypatch, "/v1/tasks", value)
    assert executor.submit(abs, 1).exception(10) is not None
    assert executor.submit(abs, 1).result(10) == 0
    assert executor._session.sender.flush(10)


def test_the_sender_when_its_own_bookkeeping_fails(
    service: ScriptedService, executor: Executor, monkeypatch: pytest.MonkeyPatch
) -> None:
    service.echo = True
    accept, left = Pending.accept, [1]

    def fail(self: Pending, *args: Any) -> Any:
        if left.pop():
            raise ZeroDivisionError("defect")
        return accept(self, *args)

    monkeypatch.setattr(Pending, "accept", fail)
    assert isinstance(executor.submit(abs, 1).exception(10), ZeroDivisionError)
    left.append(0)
    assert executor.submit(abs, 1).result(10) == 0


def test_the_sender_runs_again_after_any_error(
    service: ScriptedService, executor: Executor, monkeypatch: pytest.MonkeyPatch
) -> None:
    service.echo = True
    sender, left = executor._session.sender, [1]
    take = sender._take

    def fail() -> Any:
        if left and left.pop():
            raise ZeroDivisionError("defect")
        return take()

    monkeypatch.setattr(sender, "_take", fail)
    assert executor.submit(abs, 1).result(10) == 0


@pytest.mark.parametrize("value", UNEXPECTED)
def test_the_canceller(
    service: ScriptedService, executor: Executor, monkeypatch: pytest.MonkeyPatch, value: Any
) -> None:
    answer(monkeypatch, "/v1/cancellations", value)
    futures = [executor.submit(abs, number) for number in range(2)]
    wait_until(lambda: all(future.task_id for future in futures), what="the tasks")
    assert futures[0].cancel()
    assert executor._session.canceller.flush(10)
    assert futures[1].cancel()
    wait_until(lambda: futures[1].task_id in service.cancelled, what="the second cancellation")
    service.echo = True
    assert isinstance(executor.submit(abs, 1).result(10), int)


@pytest.mark.parametrize(
    "value", [*UNEXPECTED, {"results": None}, {"results": [{"task_id": "x"}]}, {"results": [{}]}]
)
def test_the_follower(
    service: ScriptedService, executor: Executor, monkeypatch: pytest.MonkeyPatch, value: Any
) -> None:
    answer(monkeypatch, "/results", value)
    first = executor.submit(abs, 1)
    assert first.exception(10) is not None
    service.echo = True
    assert isinstance(executor.submit(abs, 1).result(10), int)


@pytest.mark.parametrize("fields", [{"state": 7}, {"result": "not base64!"}, {"result": 5}, {"state": None}])
def test_one_result_that_makes_no_sense(
    service: ScriptedService, executor: Executor, fields: dict[str, Any]
) -> None:
    bad, good = executor.submit(abs, 1), executor.submit(abs, 2)
    wait_until(lambda: bad.task_id and good.task_id, what="the tasks")
    service.finish(str(bad.task_id), **fields)
    service.finish(str(good.task_id), 3)
    assert bad.exception(10) is not None
    assert good.result(10) == 3


def test_each_future_has_its_own_exception(service: ScriptedService) -> None:
    service.hold()
    service.refuse = lambda _: ServiceUnavailable("away")
    with service.executor() as executor:
        futures = [executor.submit(abs, number) for number in range(200)]
        service.release()
        errors = []
        for future in futures:
            with pytest.raises(ServiceUnavailable) as caught:
                future.result(10)
            errors.append(caught.value)
    assert len({id(error) for error in errors}) == len(errors)
    lengths = {len(traceback.extract_tb(error.__traceback__)) for error in errors}
    assert max(lengths) - min(lengths) < 5


class Awkward(UmbelError):
    def __init__(self, one: int, two: int):
        super().__init__(f"{one} {two}")


def test_an_exception_that_cannot_be_copied_reaches_the_futures(service: ScriptedService) -> None:
    class Odd(Exception):
        def __reduce__(self) -> Any:
            raise TypeError("no copies")

    for error in (Awkward(1, 2), Odd("odd")):
        service.refuse = lambda _, error=error: error  # type: ignore[misc]
        with service.executor() as executor:
            assert type(executor.submit(abs, 1).exception(10)) is type(error)


@pytest.mark.parametrize("what", ["reject", "cancel"])
def test_a_callback_in_any_thread_may_shut_the_executor_down(service: ScriptedService, what: str) -> None:
    service.hold()
    if what == "reject":
        service.refuse = lambda _: ServiceUnavailable("away")
    executor = service.executor()
    future = executor.submit(abs, 1)
    down = threading.Event()

    def shut(_: Future[Any]) -> None:
        executor.shutdown(wait=True)
        down.set()

    future.add_done_callback(shut)
    service.release()
    if what == "cancel":
        wait_until(lambda: future.task_id, what="the task")
        answerless = executor.submit(abs, 2)
        wait_until(lambda: answerless.task_id, what="the second task")
        service.finish(str(answerless.task_id), 1)
        threading.Thread(target=future.cancel).start()
    assert down.wait(10)


def test_a_callback_of_a_rejected_call_may_submit_although_too_much_is_unsent(
    service: ScriptedService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("umbel.submit.sender.MAX_UNSENT_CALLS", 1)
    left = [ServiceUnavailable("away")]
    service.refuse = lambda _: left.pop() if left else None
    service.echo = True
    with service.executor() as executor:
        more: list[Any] = []

        def again(_: Future[Any]) -> None:
            more.extend(executor.submit(abs, number) for number in range(3))

        executor.submit(abs, 1).add_done_callback(again)
        wait_until(lambda: len(more) == 3, what="the calls of the callback")
        assert all(isinstance(future.result(10), int) for future in more)
