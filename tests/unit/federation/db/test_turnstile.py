"""Processes that write to a SQLite ledger take turns."""

from __future__ import annotations

import errno
import fcntl
import gc
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from federation.db import turnstile
from federation.db.engine import Database
from federation.db.errors import DatabaseUnavailable
from federation.db.turnstile import Turnstile
from tests.support.file_locks import is_locked
from tests.support.forks import run_in_child
from tests.support.wait import wait_until

NAMES = ("queue", "writer")
MakeTurnstile = Callable[..., Turnstile]


@pytest.fixture
def file(tmp_path: Path) -> str:
    (tmp_path / "ledger.sqlite").touch(0o600)
    return str(tmp_path / "ledger.sqlite")


@pytest.fixture
def process(file: str) -> Iterator[MakeTurnstile]:
    """Make the turnstile of another process."""
    made = []

    def make(patience: float = turnstile.PATIENCE) -> Turnstile:
        made.append(Turnstile(file, patience))
        return made[-1]

    yield make
    for each in made:
        each.close()


@contextmanager
def _hog(own: Turnstile, seconds: float = 0.01) -> Iterator[list[int]]:
    """Take one turn after the other; yields their number."""
    turns, ended = [0], threading.Event()

    def take() -> None:
        while not ended.is_set():
            with own.turn():
                turns[0] += 1
                time.sleep(seconds)

    thread = threading.Thread(target=take, daemon=True)
    thread.start()
    try:
        wait_until(lambda: turns[0] > 2)
        yield turns
    finally:
        ended.set()
        thread.join()


@contextmanager
def _locked(file: str, *names: str) -> Iterator[None]:
    """Lock files as a process does that is suspended."""
    descriptors = [os.open(f"{file}-{name}", os.O_RDWR | os.O_CREAT, 0o600) for name in names]
    try:
        for descriptor in descriptors:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


def _seconds(own: Turnstile) -> float:
    """Return how long the wait for a turn takes."""
    began = time.monotonic()
    with own.turn():
        return time.monotonic() - began


def _descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_one_that_waits_is_next(process: MakeTurnstile) -> None:
    other = process()
    with _hog(process()) as turns:
        for _ in range(10):
            before = turns[0]
            with other.turn():
                waited = turns[0] - before
                time.sleep(0.01)
            # the one under way, and one that began before this one asked
            assert waited <= 2


def test_turns_exclude_each_other(process: MakeTurnstile) -> None:
    inside, most = [0], [0]

    def write() -> None:
        own = process()
        for _ in range(20):
            with own.turn():
                inside[0] += 1
                most[0] = max(most[0], inside[0])
                time.sleep(0.001)
                inside[0] -= 1

    threads = [threading.Thread(target=write, daemon=True) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1]


@pytest.mark.parametrize("names", [("queue",), ("writer",), NAMES])
def test_a_process_that_is_suspended_delays_others_once(
    file: str, process: MakeTurnstile, names: tuple[str, ...]
) -> None:
    own = process(0.3)
    with _locked(file, *names):
        assert 0.3 <= _seconds(own) < 2.0
        began = time.monotonic()
        for _ in range(20):
            assert _seconds(own) < 0.3
        assert time.monotonic() - began < 2.0
    assert _seconds(own) < 0.3
    with _locked(file, *names):  # there was a turn: the next suspended process is waited for
        assert _seconds(own) >= 0.3


def test_after_a_while_a_suspended_process_is_waited_for_again(
    file: str, process: MakeTurnstile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(turnstile, "RECOVERY", 0.0)
    own = process(0.05)
    with _locked(file, "queue"):
        for _ in range(3):
            assert _seconds(own) >= 0.05


def test_long_transactions_do_not_overtake_the_one_that_waits(file: str, process: MakeTurnstile) -> None:
    own = process(0.05)
    with _locked(file, "writer"), own.turn():
        assert is_locked(f"{file}-queue")
    assert not is_locked(f"{file}-queue")


def test_the_wait_is_no_longer_than_that_for_the_database(file: str) -> None:
    database = Database(f"sqlite:///{file}", busy_timeout=0.05)
    with _locked(file, *NAMES):
        began = time.monotonic()
        with database.write():
            assert 0.05 <= time.monotonic() - began < 1.5
    database.close()


def test_a_reader_waits_for_no_turn(file: str, process: MakeTurnstile) -> None:
    database = Database(f"sqlite:///{file}")
    with process().turn():
        began = time.monotonic()
        with database.read() as connection:
            connection.execute(text("SELECT 1"))
        assert time.monotonic() - began < 1.0
    assert database._turnstile is not None and not database._turnstile._locks
    database.close()


def test_a_transaction_within_another_leaves_its_turn(file: str) -> None:
    database = Database(f"sqlite:///{file}", busy_timeout=0.05)
    with database.write():
        with pytest.raises(DatabaseUnavailable), database.write():
            pass
        assert is_locked(f"{file}-writer")
    assert not is_locked(f"{file}-writer")
    database.close()


def test_without_a_database_there_are_no_files(tmp_path: Path) -> None:
    for name in ("missing/ledger.sqlite", "ledger.sqlite"):
        own = Turnstile(str(tmp_path / name))
        assert _seconds(own) < 1.0
    assert not list(tmp_path.iterdir())


def test_files_that_cannot_be_opened_are_reported_once_and_tried_again(
    file: str, process: MakeTurnstile, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    os.mkdir(f"{file}-queue")
    own = process()
    for _ in range(3):
        assert _seconds(own) < 1.0
        own._failed_until = 0.0
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    os.rmdir(f"{file}-queue")
    with own.turn():
        assert is_locked(f"{file}-writer")


def test_a_file_system_without_locks_costs_no_wait(
    process: MakeTurnstile, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    own, before = process(), _descriptors()
    for _ in range(3):
        assert _seconds(own) < 1.0
    assert len(caplog.records) == 1
    assert _descriptors() == before


def test_a_failure_to_unlock_is_no_error_of_the_transaction(file: str, process: MakeTurnstile) -> None:
    own = process()
    with own.turn():
        own.close()
    with own.turn():
        for lock in own._locks:
            assert lock._descriptor is not None
            os.close(lock._descriptor)
    for lock in own._locks:
        lock._descriptor = None


def test_an_error_ends_the_turn(process: MakeTurnstile) -> None:
    own, other = process(), process()
    with pytest.raises(KeyError), own.turn():
        raise KeyError
    assert _seconds(other) < 1.0


def test_a_forked_child_has_turns_of_its_own(file: str, process: MakeTurnstile) -> None:
    own, other = process(), process(0.05)
    with own.turn():
        assert run_in_child(lambda: len(own._locks)) == 0
        # the child waits for its parent
        assert run_in_child(lambda: _seconds(other) < 0.05) == 0
        assert is_locked(f"{file}-writer")


def test_no_descriptor_outlives_its_database(file: str) -> None:
    before = _descriptors()
    for _ in range(3):
        database = Database(f"sqlite:///{file}")
        with database.write():
            pass
        database.close()
        assert _descriptors() == before
    own = Turnstile(file)
    with own.turn():
        pass
    del own
    gc.collect()
    assert _descriptors() == before


def test_a_database_that_is_closed_during_a_transaction_keeps_its_turn(file: str) -> None:
    database = Database(f"sqlite:///{file}")
    with database.write():
        closer = threading.Thread(target=database.close)
        closer.start()
        closer.join(5)
        assert is_locked(f"{file}-writer")
    assert not is_locked(f"{file}-writer")
    database.close()


@pytest.mark.parametrize("mode", [0o600, 0o660, 0o644])
def test_users_of_the_database_may_lock_the_files(file: str, process: MakeTurnstile, mode: int) -> None:
    os.chmod(file, mode)
    assert _seconds(process()) < 1.0
    assert [os.stat(f"{file}-{name}").st_mode & 0o777 for name in NAMES] == [mode] * 2


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to other users")
def test_root_leaves_the_files_to_the_owner_of_the_database(file: str, process: MakeTurnstile) -> None:
    os.chown(file, 12345, 12345)
    assert _seconds(process()) < 1.0
    assert [os.stat(f"{file}-{name}").st_uid for name in NAMES] == [12345] * 2


def test_links_are_not_followed(file: str, process: MakeTurnstile, tmp_path: Path) -> None:
    (tmp_path / "victim").touch()
    os.symlink(tmp_path / "victim", f"{file}-queue")
    os.chmod(tmp_path / "victim", 0o644)
    assert _seconds(process()) < 1.0
    assert (tmp_path / "victim").stat().st_mode & 0o777 == 0o644
