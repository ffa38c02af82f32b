"""Forked children of a test, and locks that another thread holds when the child begins."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest

#: How long a child may take, seconds.
LIMIT = 15.0


def forked(work: Callable[[], Any]) -> int:
    """Run ``work`` in a forked child; return its process id. The child exits with what ``work`` returns."""
    pid = os.fork()
    if pid == 0:
        code = 99
        try:
            code = int(work())
        finally:
            os._exit(min(code, 100))
    return pid


def run_in_child(work: Callable[[], Any], limit: float = LIMIT) -> int:
    """Return what ``work`` returns in a forked child, within ``limit`` seconds."""
    pid = forked(work)
    deadline = time.monotonic() + limit
    while (ended := os.waitpid(pid, os.WNOHANG))[0] == 0:
        if time.monotonic() > deadline:
            os.kill(pid, 9)
            os.waitpid(pid, 0)
            pytest.fail("the child waits indefinitely")
        threading.Event().wait(0.02)
    return os.waitstatus_to_exitcode(ended[1])


@contextmanager
def held_elsewhere(locks: Sequence[Any]) -> Iterator[None]:
    """Let another thread hold ``locks`` during the block."""
    held, release = threading.Event(), threading.Event()

    def hold() -> None:
        for lock in locks:
            lock.acquire()
        held.set()
        release.wait(20)
        for lock in locks:
            lock.release()

    thread = threading.Thread(target=hold)
    thread.start()
    try:
        assert held.wait(5)
        yield
    finally:
        release.set()
        thread.join()
