"""Lets the processes that write to one SQLite file take turns.

SQLite makes a process wait for the lock of the file by sleeping, up to 100 ms between two attempts. A process
that writes all the time, such as a web server that accepts bags, has the lock again before another one wakes
up, which then waits for seconds. Here a process waits for one file lock while it has another: whoever has
just written has to wait for the latter first, so that the one that waits is next.

It only decides who asks SQLite first. A process that is suspended in between delays others for ``PATIENCE``.
"""

from __future__ import annotations

import fcntl
import logging
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

log = logging.getLogger(__name__)

#: Longest wait for a turn, seconds; after that, SQLite is asked without one.
PATIENCE = 2.0
#: Pauses between two attempts, seconds: the first one, and the longest.
FIRST_PAUSE, LONGEST_PAUSE = 0.0001, 0.001


class Turnstile:
    """The turns of one database file."""

    def __init__(self, file: str):
        self._files = f"{file}-queue", f"{file}-writer"
        self._opened: tuple[int, int] | None = None
        self._failed = False

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Wait for the next turn, and have it in the block."""
        deadline = time.monotonic() + PATIENCE
        with ExitStack() as stack:
            if (opened := self._open()) is not None:
                queue, writer = opened
                with _locked(queue, deadline):
                    stack.enter_context(_locked(writer, deadline))
            yield

    def close(self) -> None:
        """Close the files."""
        opened, self._opened = self._opened, None
        for descriptor in opened or ():
            os.close(descriptor)

    def _open(self) -> tuple[int, int] | None:
        if self._opened is None and not self._failed:
            try:
                queue, writer = (os.open(file, os.O_RDWR | os.O_CREAT, 0o600) for file in self._files)
                self._opened = queue, writer
            except OSError as error:
                self._failed = True
                log.warning("processes that write to the ledger do not take turns: %s", error)
        return self._opened


@contextmanager
def _locked(descriptor: int, deadline: float) -> Iterator[None]:
    """Lock a file until the end of the block; without the lock if it takes too long."""
    pause = FIRST_PAUSE
    locked = _lock(descriptor)
    while not locked and time.monotonic() < deadline:
        time.sleep(pause)
        pause = min(LONGEST_PAUSE, 2 * pause)
        locked = _lock(descriptor)
    try:
        yield
    finally:
        if locked:
            fcntl.flock(descriptor, fcntl.LOCK_UN)


def _lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
