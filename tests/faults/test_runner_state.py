"""Calls of one endpoint do not meet each other's files, state or processes."""

from __future__ import annotations

import os
import time
from typing import Any

import pytest

import umbel as sdk
from tests.support.embedded import Embedded


def write(text: str) -> str:
    with open("out.dat", "w") as file:
        file.write(text)
    time.sleep(0.05)
    return open("out.dat").read()


def spoil() -> None:
    import decimal
    import socket

    os.environ["TZ"] = "Asia/Tokyo"
    time.tzset()
    socket.setdefaulttimeout(0.001)
    decimal.getcontext().prec = 2


def look() -> Any:
    import decimal
    import socket

    return time.timezone, socket.getdefaulttimeout(), decimal.getcontext().prec


def test_concurrent_calls_have_files_of_their_own(umbel: Embedded) -> None:
    with umbel.executor() as executor:
        assert list(executor.map(write, map(str, range(20)), timeout=60)) == [str(i) for i in range(20)]


def test_state_reaches_no_other_function(umbel: Embedded) -> None:
    with umbel.executor() as executor:
        before = executor.submit(look).result(60)
        for _ in range(4):
            executor.submit(spoil).result(60)
            assert executor.submit(look).result(60) == before


def test_isolated_calls_have_processes_of_their_own(umbel: Embedded) -> None:
    with umbel.executor(isolation="process") as executor:
        pids = [future.result(60) for future in [executor.submit(os.getpid) for _ in range(6)]]
    assert len(set(pids)) == 6


def test_a_function_that_asks_for_it_is_isolated_whoever_submits_it(umbel: Embedded) -> None:
    def process() -> int:
        return os.getpid()

    sdk.function(isolation="process")(process)
    with umbel.executor() as executor:
        pids = [future.result(60) for future in [executor.submit(process) for _ in range(6)]]
        function = executor._session.client.function_id(executor._session.functions.get(process))
        assert executor._session.client.get_function(function)["limits"] == {"isolation": "process"}
    assert len(set(pids)) == 6


def test_a_call_that_submits_is_told_what_to_do(umbel: Embedded) -> None:
    def nested() -> int:
        from umbel import Executor

        return int(Executor("local").submit(pow, 2, 3).result(10))

    with umbel.executor() as executor, pytest.raises(Exception, match="nested_submit = true"):
        executor.submit(nested).result(60)
