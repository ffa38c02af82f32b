"""The exit of a program: it waits for the service, and Ctrl-C stores what is unsent."""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Iterator

import pytest

from umbel.submit import ending


class Session:
    """Has something unsent until ``accepted`` flushes; Ctrl-C comes in each if ``interrupted``."""

    submitted_calls = 3
    spool = None

    def __init__(self, patience: float, accepted: int = 10**9, interrupted: bool = False):
        self.patience, self._accepted, self._interrupted = patience, accepted, interrupted
        self.flushes = 0
        self.lock = threading.Lock()

    def flush_at_exit(self, timeout: float) -> bool:
        self.flushes += 1
        self.lock.acquire()
        if self._interrupted:
            signal.raise_signal(signal.SIGINT)
        self.lock.release()
        time.sleep(min(timeout, 0.01))
        return self.flushes >= self._accepted

    def take_unsent(self) -> list[object]:
        assert self.lock.acquire(timeout=1), "the lock stayed locked"
        self.lock.release()
        return []


@pytest.fixture(autouse=True)
def _handler() -> Iterator[None]:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    signal.signal(signal.SIGINT, before)


def test_ctrl_c_leaves_no_lock_locked(caplog: pytest.LogCaptureFixture) -> None:
    sessions = [Session(60.0, interrupted=True), Session(60.0)]
    ending.submit_or_store(sessions)  # type: ignore[arg-type]
    assert [session.flushes for session in sessions] == [1, 0]
    assert not caplog.records, "nothing waits any more"


def test_the_wait_ends_when_the_service_has_accepted_all() -> None:
    session = Session(60.0, accepted=3)
    ending.submit_or_store([session])  # type: ignore[list-item]
    assert 3 <= session.flushes <= 4


def test_the_wait_ends_after_the_patience(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(ending, "PATIENT_SILENCE", 0.05)
    caplog.set_level(logging.WARNING, "umbel")
    session = Session(0.2)
    began = time.monotonic()
    ending.submit_or_store([session])  # type: ignore[list-item]
    assert time.monotonic() - began >= 0.2 and session.flushes > 5
    assert [record.levelname for record in caplog.records] == ["WARNING"]


def test_a_program_may_ignore_the_signal() -> None:
    session = Session(60.0, accepted=2, interrupted=True)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        ending.submit_or_store([session])  # type: ignore[list-item]
        assert session.flushes >= 2 and signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
