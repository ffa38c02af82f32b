"""Threads that must not end in silence: run again, handed to their owner, stopped."""

from __future__ import annotations

import logging
import threading

import pytest

from umbel.system import threads
from umbel.system.threads import GuardedThread


@pytest.fixture(autouse=True)
def short_pause(monkeypatch):
    monkeypatch.setattr(threads, "FIRST_PAUSE", 0.001)


@pytest.mark.parametrize("kind", [ValueError, SystemExit, KeyboardInterrupt])
def test_a_target_that_raises_runs_again_and_is_logged(kind, caplog):
    failures = iter([kind("first"), kind("second")])
    runs = []

    def target():
        runs.append(1)
        for failure in failures:
            raise failure

    thread = GuardedThread(target, name="umbel-test")
    thread.start()
    thread.join(10)
    assert not thread.is_alive()
    assert len(runs) == 3
    records = [record for record in caplog.records if "umbel-test" in record.getMessage()]
    assert [record.levelno for record in records] == [logging.ERROR] * 2
    assert all(record.exc_info for record in records)


def test_the_owner_gets_the_failure_and_the_thread_ends():
    seen = []
    error = ValueError("broken")

    def target():
        raise error

    thread = GuardedThread(target, name="umbel-test", on_failure=seen.append)
    thread.start()
    thread.join(10)
    assert seen == [error]


def test_stop_ends_the_pause(monkeypatch):
    monkeypatch.setattr(threads, "FIRST_PAUSE", 60.0)
    stop, failed = threading.Event(), threading.Event()

    def target():
        failed.set()
        raise ValueError

    thread = GuardedThread(target, name="umbel-test", stop=stop)
    thread.start()
    assert failed.wait(10)
    stop.set()
    thread.join(10)
    assert not thread.is_alive()
