"""Processes that write to one SQLite ledger get their turns, whatever happens to one of them."""

from __future__ import annotations

import fcntl
import json
import os
import select
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import text

from federation.db.engine import Database
from federation.db.errors import DatabaseUnavailable
from tests.support.embedded import ROOT, Embedded, environment
from tests.support.file_locks import is_locked
from tests.support.wait import wait_until

#: A process that writes: prints "begun" in each transaction, which takes ``seconds``, or ends with a line of
#: input if ``seconds`` is 0; prints how long each took to begin at the end.
WRITER = """
import json, sys, time
from sqlalchemy import text
from federation.db.engine import Database

file, number, count, seconds = sys.argv[1], *map(float, sys.argv[2:])
database, waits = Database(f"sqlite:///{file}"), []
for _ in range(int(count)):
    asked = time.monotonic()
    with database.write() as connection:
        waits.append(time.monotonic() - asked)
        connection.execute(text("UPDATE turns SET count = count + 1 WHERE writer = :no"), {"no": number})
        print("begun", flush=True)
        time.sleep(seconds) if seconds else sys.stdin.readline()
print(json.dumps(waits), flush=True)
"""
#: More transactions than a test waits for.
MANY = 1_000_000


class Writer:
    """A process that writes to a ledger."""

    def __init__(self, file: Path, number: int, count: int, seconds: float):
        self.process = subprocess.Popen(
            [sys.executable, "-c", WRITER, *map(str, (file, number, count, seconds))],
            cwd=ROOT,
            env=environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
        )
        assert self.process.stdin is not None and self.process.stdout is not None
        self.stdin, self.stdout = self.process.stdin, self.process.stdout

    def line(self, timeout: float = 20.0) -> str:
        """Return the next line of its output."""
        assert select.select([self.stdout], [], [], timeout)[0], "no output in time"
        return self.stdout.readline().decode().strip()

    def waits(self) -> list[float]:
        """Return how long its transactions took to begin, at its end."""
        while (line := self.line()) == "begun":
            pass
        return list(json.loads(line))

    def signal(self, number: signal.Signals) -> None:
        """Send a signal; after SIGSTOP and SIGKILL, return when it has an effect."""
        self.process.send_signal(number)
        if number == signal.SIGSTOP:
            os.waitpid(self.process.pid, os.WUNTRACED)
        elif number == signal.SIGKILL:
            self.process.wait(10)

    def end(self) -> None:
        """Kill it."""
        self.process.kill()
        self.process.wait()
        self.stdin.close()
        self.stdout.close()


Start = Callable[..., Writer]


@pytest.fixture
def ledger(tmp_path: Path) -> Path:
    file = tmp_path / "ledger.sqlite"
    with closing(sqlite3.connect(file)) as connection, connection:
        connection.execute("CREATE TABLE turns (writer INTEGER PRIMARY KEY, count INTEGER)")
        connection.executemany("INSERT INTO turns VALUES (?, 0)", [(number,) for number in range(4)])
    return file


@pytest.fixture
def start(ledger: Path) -> Iterator[Start]:
    """Start a process that writes ``count`` transactions of ``seconds``."""
    writers: list[Writer] = []

    def start(*, count: int = 1, seconds: float = 0.0) -> Writer:
        writers.append(Writer(ledger, len(writers), count, seconds))
        return writers[-1]

    yield start
    for writer in writers:
        writer.end()


@pytest.fixture
def database(ledger: Path) -> Iterator[Database]:
    with closing(Database(f"sqlite:///{ledger}", busy_timeout=2)) as opened:
        yield opened


def _count(database: Database, writer: int) -> int:
    with database.read() as connection:
        found = connection.execute(text("SELECT count FROM turns WHERE writer = :no"), {"no": writer})
        return int(found.scalar_one())


def _seconds_of(database: Database, count: int = 1) -> float:
    """Return how long transactions take."""
    began = time.monotonic()
    for _ in range(count):
        with database.write() as connection:
            connection.execute(text("UPDATE turns SET count = count + 1 WHERE writer = 3"))
    return time.monotonic() - began


def _in_turn_and_waiting(ledger: Path, start: Start) -> tuple[Writer, Writer]:
    """Return a process in the middle of its transaction, and another one that is next."""
    writing = start()
    assert writing.line() == "begun"
    waiting = start()
    wait_until(lambda: is_locked(f"{ledger}-queue"), 10, what="a process that waits")
    return writing, waiting


def test_a_process_that_writes_all_the_time_starves_no_other(start: Start, database: Database) -> None:
    busy = start(count=MANY, seconds=0.05)
    assert busy.line() == "begun"
    before = _count(database, 0)
    waits = start(count=30, seconds=0.01).waits()
    # a transaction of the other one, or two on a loaded machine; SQLite alone makes it wait for seconds
    assert max(waits) < 1.0
    assert sum(waits) / len(waits) < 0.25
    # the other one has its share, too
    assert _count(database, 0) - before >= 15


def test_three_processes_that_write_all_the_time_take_turns(start: Start, database: Database) -> None:
    for _ in range(3):
        start(count=MANY, seconds=0.02)
    wait_until(lambda: all(_count(database, number) for number in range(3)), 20, what="three processes")
    before = [_count(database, number) for number in range(3)]

    def done() -> list[int]:
        return [_count(database, number) - before[number] for number in range(3)]

    wait_until(lambda: sum(done()) > 100, 20, what="100 transactions")
    assert min(done()) > 10


def test_a_process_that_is_killed_ends_its_turn(ledger: Path, start: Start, database: Database) -> None:
    writing, waiting = _in_turn_and_waiting(ledger, start)
    killed = time.monotonic()
    writing.signal(signal.SIGKILL)
    assert waiting.line() == "begun" and time.monotonic() - killed < 1.5
    waiting.stdin.write(b"\n")
    assert waiting.waits()
    assert [_count(database, number) for number in range(2)] == [0, 1]
    assert _seconds_of(database) < 1.5


def test_a_process_that_is_killed_while_it_waits_is_in_nobodys_way(
    ledger: Path, start: Start, database: Database
) -> None:
    writing, waiting = _in_turn_and_waiting(ledger, start)
    waiting.signal(signal.SIGKILL)
    writing.stdin.write(b"\n")
    assert writing.waits()
    assert _seconds_of(database, 10) < 1.5
    assert [_count(database, number) for number in range(2)] == [1, 0]


def test_the_wait_for_a_process_suspended_in_its_transaction_is_limited(start: Start, ledger: Path) -> None:
    writing = start()
    assert writing.line() == "begun"
    writing.signal(signal.SIGSTOP)
    with closing(Database(f"sqlite:///{ledger}", busy_timeout=0.5)) as database:
        for _ in range(2):
            began = time.monotonic()
            with pytest.raises(DatabaseUnavailable), database.write():
                pass
            assert 0.5 <= time.monotonic() - began < 4.0
        assert _count(database, 0) == 0  # readers do not wait
        writing.signal(signal.SIGCONT)
        writing.stdin.write(b"\n")
        assert writing.waits()
        assert _seconds_of(database) < 1.5
        assert _count(database, 0) == 1


def test_a_process_suspended_while_it_waits_delays_others_once(
    ledger: Path, start: Start, database: Database
) -> None:
    writing, waiting = _in_turn_and_waiting(ledger, start)
    waiting.signal(signal.SIGSTOP)
    writing.stdin.write(b"\n")
    assert writing.waits()
    assert is_locked(f"{ledger}-queue")
    assert _seconds_of(database) < 4.0
    assert _seconds_of(database, 20) < 2.0
    waiting.signal(signal.SIGCONT)
    assert waiting.line() == "begun"
    waiting.stdin.write(b"\n")
    assert waiting.waits()
    assert [_count(database, number) for number in range(2)] == [1, 1]
    assert _seconds_of(database) < 1.5


def test_a_service_works_beside_a_suspended_process(tmp_path: Path) -> None:
    with (
        Embedded(tmp_path, environ={"UMBEL_BUSY_TIMEOUT": "2"}) as umbel,
        umbel.executor() as executor,
    ):
        assert executor.submit(pow, 2, 3).result(30) == 8
        lock = os.open(umbel.home / "ledger.sqlite-queue", os.O_RDWR)
        try:
            wait_until(lambda: _try_lock(lock), 10, what="a moment at which no process waits")
            began = time.monotonic()
            assert [executor.submit(pow, 2, number).result(30) for number in range(20)] == [
                2**number for number in range(20)
            ]
            assert time.monotonic() - began < 20
        finally:
            os.close(lock)
        assert executor.submit(pow, 2, 4).result(30) == 16
        assert "Traceback" not in umbel.logs(1000)


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
