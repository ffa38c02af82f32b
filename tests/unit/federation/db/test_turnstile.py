"""Processes that write to one SQLite file take turns."""

from __future__ import annotations

import fcntl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from federation.db import turnstile
from federation.db.turnstile import Turnstile
from tests.support.wait import wait_until


@contextmanager
def _hog(file: str) -> Iterator[list[int]]:
    """Take one turn after the other; yields their number."""
    turns, ended, own = [0], threading.Event(), Turnstile(file)

    def take() -> None:
        while not ended.is_set():
            with own.turn():
                turns[0] += 1
                time.sleep(0.01)

    thread = threading.Thread(target=take, daemon=True)
    thread.start()
    try:
        wait_until(lambda: turns[0] > 2)
        yield turns
    finally:
        ended.set()
        thread.join()
        own.close()


def test_one_that_waits_is_next(tmp_path: Path) -> None:
    file = str(tmp_path / "ledger.sqlite")
    other = Turnstile(file)
    with _hog(file) as turns:
        for _ in range(10):
            before = turns[0]
            with other.turn():
                waited = turns[0] - before
                time.sleep(0.01)
            # the one under way, and one that began before this one asked
            assert waited <= 2
    other.close()


def test_turns_exclude_each_other(tmp_path: Path) -> None:
    file = str(tmp_path / "ledger.sqlite")
    inside, most = [0], [0]

    def write() -> None:
        own = Turnstile(file)
        for _ in range(20):
            with own.turn():
                inside[0] += 1
                most[0] = max(most[0], inside[0])
                time.sleep(0.001)
                inside[0] -= 1
        own.close()

    threads = [threading.Thread(target=write, daemon=True) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1]


@pytest.mark.parametrize("name", ["queue", "writer"])
def test_a_process_that_is_suspended_delays_others_for_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(turnstile, "PATIENCE", 0.05)
    own = Turnstile(str(tmp_path / "ledger.sqlite"))
    with (tmp_path / f"ledger.sqlite-{name}").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        began = time.monotonic()
        with own.turn():
            assert 0.05 <= time.monotonic() - began < 2.0
    own.close()


def test_without_the_files_everything_works(tmp_path: Path) -> None:
    own = Turnstile(str(tmp_path / "missing" / "ledger.sqlite"))
    for _ in range(2):
        with own.turn():
            pass
    own.close()


def test_an_error_ends_the_turn(tmp_path: Path) -> None:
    own, other = (Turnstile(str(tmp_path / "ledger.sqlite")) for _ in range(2))
    with pytest.raises(KeyError), own.turn():
        raise KeyError
    began = time.monotonic()
    with other.turn():
        assert time.monotonic() - began < 1.0
    own.close()
    other.close()
