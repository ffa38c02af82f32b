"""Calls that submit further calls, at a site that allows it and at one that does not."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.support.embedded import Embedded, HandEndpoint, processes_of
from umbel import TaskError
from umbel.protocol.errors import Unauthorized

DEADLINE = 60.0


@pytest.fixture(scope="module")
def umbel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Embedded]:
    with Embedded(tmp_path_factory.mktemp("nested"), workers=1) as embedded:
        yield embedded


@pytest.fixture(scope="module")
def lab(umbel: Embedded) -> HandEndpoint:
    """An endpoint whose calls may submit, with one slot."""
    return umbel.endpoint("lab", 1, "nested_submit = true\n")


def double(number: int) -> int:
    return 2 * number


def fan_out(endpoint: str, count: int) -> int:
    from umbel import Executor

    with Executor(endpoint) as executor:
        return sum(executor.map(double, range(count), timeout=60))


def secrets_backwards() -> tuple[str, str]:
    """Token and grant; what a call returns is stored, so they are written backwards."""
    from umbel import Client
    from umbel.system.call_access import current

    with Client() as client:
        token = str(client.transport.account.token)  # type: ignore[attr-defined]
        return token[::-1], current().grant[::-1]  # type: ignore[union-attr]


def test_a_call_submits_calls_and_returns_their_result(umbel: Embedded, lab: HandEndpoint) -> None:
    with umbel.executor("lab", nested=True) as executor:
        assert executor.submit(fan_out, "local", 10).result(DEADLINE) == 90
        assert executor.submit(fan_out, "local", 3).result(DEADLINE) == 6


@pytest.mark.parametrize("isolation", [None, "process"])
def test_the_token_is_nowhere_to_be_found_and_ends_with_the_call(
    umbel: Embedded, lab: HandEndpoint, isolation: str | None
) -> None:
    with umbel.executor("lab", nested=True, isolation=isolation) as executor:
        token, grant = [text[::-1] for text in executor.submit(secrets_backwards).result(DEADLINE)]
        other = executor.submit(secrets_backwards).result(DEADLINE)[0][::-1]
    assert token.startswith("umb_") and token != other
    secrets = token[4:].encode(), grant[-60:].encode()
    files = [path for home in (umbel.home, lab.home) for path in home.rglob("*") if path.is_file()]
    assert any(path.suffix == ".sqlite" for path in files) and any("log" in path.name for path in files)
    assert [path for path in files if any(secret in _content(path) for secret in secrets)] == []
    for process in processes_of(umbel.home) + processes_of(lab.home):
        try:
            shown = f"{process.cmdline()} {process.environ()}".encode()
            assert not any(secret in shown for secret in secrets)
        except psutil.Error:  # it has ended
            continue
    with pytest.raises(Unauthorized):
        umbel.client(token=token).get_task(executor.group_id)


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:  # removed, or a socket
        return b""


def meddle(task_id: str) -> list[str]:
    from umbel import Client
    from umbel.protocol.errors import ServiceError

    codes = []
    with Client() as client:
        for attempt in (
            lambda: client.get_task(task_id),
            lambda: client.cancel_task(task_id),
            lambda: client.delete_endpoint("lab"),
            lambda: client.whoami(),
        ):
            try:
                attempt()
            except ServiceError as error:
                codes.append(error.code)
    return codes


def test_a_call_can_do_nothing_else(umbel: Embedded, lab: HandEndpoint) -> None:
    with umbel.executor("local") as executor:
        future = executor.submit(double, 1)
        assert future.result(DEADLINE) == 2
        task_id = str(future.task_id)
    with umbel.executor("lab", nested=True) as executor:
        codes = executor.submit(meddle, task_id).result(DEADLINE)
    assert codes == ["TASK_NOT_FOUND", "TASK_NOT_FOUND", "FORBIDDEN", "FORBIDDEN"]


@pytest.mark.parametrize(("endpoint", "nested"), [("local", True), ("lab", None), ("local", None)])
def test_site_and_submission_must_both_allow_it(
    umbel: Embedded, lab: HandEndpoint, endpoint: str, nested: bool | None
) -> None:
    with umbel.executor(endpoint, nested=nested) as executor:
        with pytest.raises((Unauthorized, TaskError)) as caught:
            executor.submit(fan_out, "local", 1).result(DEADLINE)
    assert "nested_submit = true" in str(caught.value) and "nested=True" in str(caught.value)


def wait_for_own_slot() -> str:
    from concurrent.futures import TimeoutError

    from umbel import Executor

    executor = Executor("lab")
    future = executor.submit(double, 21)
    try:
        return str(future.result(3))
    except TimeoutError:
        return str(future.task_id)
    finally:
        executor.shutdown(wait=False)


def test_a_call_that_waits_for_its_own_slot_gets_a_timeout(umbel: Embedded, lab: HandEndpoint) -> None:
    with umbel.executor("lab", nested=True) as executor:
        inner = executor.submit(wait_for_own_slot).result(DEADLINE)
    # the inner call runs once the slot is free
    assert umbel.client().get_result(inner, timeout=DEADLINE) == 42


def use_after_fork() -> int:
    child = os.fork()
    if not child:
        os._exit(0 if fan_out("local", 3) == 6 else 1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_a_process_that_the_call_forks_may_submit(umbel: Embedded, lab: HandEndpoint) -> None:
    with umbel.executor("lab", nested=True) as executor:
        assert executor.submit(use_after_fork).result(DEADLINE) == 0
