"""Lets the processes that write to one SQLite file take turns.

SQLite makes a process wait for the lock of the file by sleeping, up to 100 ms between two attempts. A process
that writes all the time, such as a web server that accepts bags, has the lock again before another one wakes
up, which then waits for seconds. Here a process waits for one file lock while it has another: a process that
has just written has to wait for the latter first, so that the one that waits is next.

A turn only decides which process asks SQLite first; SQLite's lock protects the data. A process has no turn if
the files cannot be locked, or if the wait takes too long because another process is suspended.
"""

from __future__ import annotations

import fcntl
import logging
import os
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from umbel.system.forks import after_fork

log = logging.getLogger(__name__)

#: Maximum wait for a turn, seconds; after that, SQLite is asked without one.
PATIENCE = 5.0
#: Time after such a wait, or an error of the file system, without further waits or attempts, seconds.
RECOVERY = 30.0
#: Pauses between two attempts, seconds: the first, and the longest. With this growth, a pause is a ninth of
#: the wait.
FIRST_PAUSE, LONGEST_PAUSE, GROWTH = 0.0001, 0.004, 1.125


class Turnstile:
    """The turns of one database file. Only one thread at a time may use it.

    ``patience``: maximum wait for a turn, seconds, at most ``PATIENCE``.
    """

    def __init__(self, file: str, patience: float = PATIENCE):
        self._file = os.path.abspath(file)
        self._patience = min(patience, PATIENCE)
        self._locks: tuple[_FileLock, ...] = ()
        self._inside = False
        self._hurried_until = self._failed_until = 0.0
        self._failure = ""
        after_fork(self._forget)

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Wait for the next turn; it lasts until the end of the block. A turn within a turn is the same."""
        if self._inside:
            yield
            return
        self._inside = True
        try:
            if self._opened():
                self._wait(*self._locks)
            yield
        finally:
            self._inside = False
            for lock in self._locks:
                lock.release()

    def close(self) -> None:
        """Close the files; the next turn opens them again."""
        locks, self._locks = self._locks, ()
        for lock in locks:
            lock.close()

    def _wait(self, queue: _FileLock, writer: _FileLock) -> None:
        now = time.monotonic()
        hurried = now < self._hurried_until
        deadline = now if hurried else now + self._patience
        try:
            first = queue.take(deadline)
            if turn := writer.take(deadline):
                queue.release()
        except OSError as error:
            self._fail(error)
            return
        # without a turn, the queue stays locked: a process with long transactions does not overtake this one
        if first and turn:
            self._hurried_until = 0.0
        elif not hurried:
            self._hurried_until = time.monotonic() + RECOVERY
            log.info("writing to the ledger without a turn: another process has not ended its own")

    def _opened(self) -> bool:
        """Open the files unless they are open; return whether they are. SQLite creates the database."""
        if not self._locks and os.path.exists(self._file) and time.monotonic() >= self._failed_until:
            database = os.path.realpath(self._file)
            try:
                self._locks = tuple(_FileLock(f"{database}-{name}", database) for name in ("queue", "writer"))
            except OSError as error:
                self._fail(error)
        return bool(self._locks)

    def _fail(self, error: OSError) -> None:
        if str(error) != self._failure:
            log.warning("this process writes to the ledger without turns: %s", error)
        self._failure = str(error)
        self._failed_until = time.monotonic() + RECOVERY
        self.close()

    def _forget(self) -> None:
        """Close the files in a forked child: their locks are its parent's."""
        self._inside = False
        self.close()


class _FileLock:
    """A lock that ends with the process. It is of the open file: the thread that has it can take it again."""

    _descriptor: int | None = None

    def __init__(self, file: str, database: str):
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        self._descriptor = os.open(file, flags, 0o600)
        _use_owner_and_mode(self._descriptor, os.stat(database))

    def take(self, deadline: float) -> bool:
        """Wait until ``deadline`` for the lock; return whether this process has it.

        Raises OSError if the file system has no locks.
        """
        pause = FIRST_PAUSE
        while not self._try():
            if time.monotonic() >= deadline:
                return False
            time.sleep(pause)
            pause = min(LONGEST_PAUSE, GROWTH * pause)
        return True

    def _try(self) -> bool:
        if self._descriptor is None:
            return False
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def release(self) -> None:
        """Unlock the file if this process has the lock. An error changes nothing for a transaction."""
        if self._descriptor is not None:
            with suppress(OSError):
                fcntl.flock(self._descriptor, fcntl.LOCK_UN)

    def close(self) -> None:
        """Close the file."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)

    __del__ = close


def _use_owner_and_mode(descriptor: int, database: os.stat_result) -> None:
    """Let the users who may write to the database lock the file, as SQLite does with its own files."""
    found, mode = os.fstat(descriptor), stat.S_IMODE(database.st_mode) & 0o666
    if os.geteuid() not in (0, found.st_uid):
        return
    if stat.S_IMODE(found.st_mode) != mode:
        os.fchmod(descriptor, mode)
    if os.geteuid() == 0 and (found.st_uid, found.st_gid) != (database.st_uid, database.st_gid):
        os.fchown(descriptor, database.st_uid, database.st_gid)
