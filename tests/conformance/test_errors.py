"""What goes wrong belongs to its own future, with its own class and the remote traceback."""

from __future__ import annotations

import os
import pickle

import pytest

from tests.conformance.work import (
    DEADLINE,
    Refused,
    Service,
    Unpicklable,
    divide,
    echo,
    give_unpicklable,
    leave,
    nested_failure,
    refuse,
    square,
)
from umbel import Executor, TaskError, UmbelError
from umbel.exceptions import SerializeError
from umbel.protocol.errors import NotFound, TooLarge
from umbel.protocol.limits import MAX_PAYLOAD_BYTES


def test_builtin_exceptions_keep_class_and_message(executor: Executor) -> None:
    with pytest.raises(ZeroDivisionError, match="division by zero"):
        executor.submit(divide, 1, 0).result(DEADLINE)


def test_the_cause_has_the_remote_traceback(executor: Executor) -> None:
    future = executor.submit(divide, 1, 0)
    error = future.exception(DEADLINE)
    assert error is not None
    cause = error.__cause__
    assert isinstance(cause, TaskError)
    assert (cause.code, cause.task_id) == ("TASK_ERROR", future.task_id)
    assert cause.traceback is not None
    assert "in divide" in cause.traceback and "return a / b" in cause.traceback


def test_the_users_own_class_comes_back_with_its_attributes(executor: Executor) -> None:
    with pytest.raises(Refused, match="the door refused 3 times") as caught:
        executor.submit(refuse, 3).result(DEADLINE)
    assert (caught.value.what, caught.value.count) == ("the door", 3)


def test_chained_exceptions_are_in_the_traceback(executor: Executor) -> None:
    with pytest.raises(ValueError, match="outer") as caught:
        executor.submit(nested_failure).result(DEADLINE)
    text = str(caught.value.__cause__)
    assert "KeyError: 'inner'" in text and "direct cause" in text


def test_a_class_of_the_functions_own_making_becomes_a_task_error(executor: Executor) -> None:
    def fail() -> None:
        class Local(Exception):
            pass

        raise Local("made there")

    with pytest.raises(TaskError, match="made there") as caught:
        executor.submit(fail).result(DEADLINE)
    assert caught.value.code == "TASK_ERROR" and "Local" in caught.value.message


def test_systemexit_ends_the_call_and_nothing_here(executor: Executor) -> None:
    with pytest.raises(TaskError):
        executor.submit(leave, 3).result(DEADLINE)
    assert executor.submit(square, 2).result(DEADLINE) == 4


def test_arguments_that_cannot_be_serialized(executor: Executor) -> None:
    bad = executor.submit(echo, Unpicklable())
    good = executor.submit(square, 2)
    with pytest.raises(SerializeError, match="stays here"):
        bad.result(DEADLINE)
    assert good.result(DEADLINE) == 4


def test_a_result_that_cannot_be_serialized(executor: Executor) -> None:
    with pytest.raises(TaskError) as caught:
        executor.submit(give_unpicklable).result(DEADLINE)
    assert caught.value.code == "RESULT_NOT_SERIALIZABLE"


def test_arguments_over_the_limit(executor: Executor) -> None:
    bad = executor.submit(len, os.urandom(MAX_PAYLOAD_BYTES + 1))  # nothing to compress
    good = executor.submit(square, 2)
    with pytest.raises(TooLarge):
        bad.result(DEADLINE)
    assert good.result(DEADLINE) == 4


def test_a_result_over_the_limit(executor: Executor) -> None:
    with pytest.raises(TaskError) as caught:
        executor.submit(os.urandom, MAX_PAYLOAD_BYTES + 1).result(DEADLINE)
    assert caught.value.code == "RESULT_TOO_LARGE"
    assert executor.submit(square, 2).result(DEADLINE) == 4


def test_errors_survive_pickling(executor: Executor) -> None:
    for call in (
        executor.submit(divide, 1, 0),
        executor.submit(leave, 1),
        executor.submit(echo, Unpicklable()),
    ):
        error = call.exception(DEADLINE)
        copy = pickle.loads(pickle.dumps(error))
        assert type(copy) is type(error) and str(copy) == str(error)
        if isinstance(error, UmbelError):
            assert isinstance(copy, UmbelError) and copy.code == error.code


def test_each_waiting_thread_gets_the_exception(executor: Executor) -> None:
    future = executor.submit(divide, 1, 0)
    for _ in range(3):
        with pytest.raises(ZeroDivisionError):
            future.result(DEADLINE)


def test_time_limit(service: Service) -> None:
    def sleep(seconds: float) -> None:
        import time

        time.sleep(seconds)

    with service.executor(timeout=0.2) as executor, pytest.raises(TaskError) as caught:
        executor.submit(sleep, 2).result(DEADLINE)
    assert caught.value.code == "TIMEOUT"


def test_retries(service: Service, tmp_path: object) -> None:
    def fail_twice(path: str) -> int:
        with open(path, "a+") as file:
            file.write("x")
            file.seek(0)
            count = len(file.read())
        if count < 3:
            raise ConnectionError(count)
        return count

    path = f"{tmp_path}/count"
    with service.executor(retries=5, retry_on=[ConnectionError]) as executor:
        assert executor.submit(fail_twice, path).result(DEADLINE) == 3
    with service.executor(retries=5, retry_on=["ValueError"]) as executor:
        with pytest.raises(ConnectionError):
            executor.submit(fail_twice, f"{tmp_path}/other").result(DEADLINE)


def test_reading_the_result_of_an_unknown_task(service: Service) -> None:
    with service.client() as client, pytest.raises(NotFound) as caught:
        client.get_result("00000000-0000-7000-8000-000000000000")
    assert caught.value.code == "TASK_NOT_FOUND"
