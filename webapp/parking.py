"""Requests that wait without a thread: news or their deadline put them back into the queue of the threads."""

from __future__ import annotations

import heapq
import itertools
import threading
import time
from typing import Protocol

from umbel.system.threads import GuardedThread

from .long_polls import Wait


class Request(Protocol):
    """A request that can be run again."""

    def resume(self) -> None:
        """Put the request into the queue of the threads. Must not block."""


class Entry:
    """One parked request; it is resumed once, whatever happens first."""

    def __init__(self, request: Request):
        self._request: Request | None = request
        self._lock = threading.Lock()

    @property
    def resumed(self) -> bool:
        """True after ``resume``."""
        return self._request is None

    def resume(self) -> None:
        """Resume the request, unless it was resumed before."""
        with self._lock:
            request, self._request = self._request, None
        if request is not None:
            request.resume()


class Parking:
    """The parked requests of one process, and the thread that watches their deadlines."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._stopped = threading.Event()
        self._numbers = itertools.count()
        self._deadlines: list[tuple[float, int, Entry]] = []
        self._waits: set[Wait] = set()
        self._thread = GuardedThread(self._run, name="parking", stop=self._stopped)
        self._thread.start()

    def park(self, entry: Entry, wait: Wait) -> None:
        """Resume ``entry`` when the subscription of ``wait`` changes, or at its deadline."""
        assert wait.deadline is not None and wait.subscription is not None
        with self._changed:
            self._waits.add(wait)
            heapq.heappush(self._deadlines, (wait.deadline, next(self._numbers), entry))
            if self._deadlines[0][2] is entry:
                self._changed.notify_all()
        wait.subscription.call_once(entry.resume)

    def leave(self, wait: Wait) -> None:
        """Record that the request was answered."""
        with self._changed:
            self._waits.discard(wait)
            if not self._waits:
                self._changed.notify_all()

    def wait_until_empty(self, timeout: float) -> bool:
        """Wait up to ``timeout`` seconds until all requests are answered."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._waits, timeout)

    def stop(self) -> None:
        """End the thread."""
        self._stopped.set()
        with self._changed:
            self._changed.notify_all()
        self._thread.join(5)

    def _run(self) -> None:
        while not self._stopped.is_set():
            for entry in self._wait_for_due():
                entry.resume()

    def _wait_for_due(self) -> list[Entry]:
        """Wait for the next deadline or an earlier one; return the entries that are due."""
        with self._changed:
            if not self._stopped.is_set():
                left = self._deadlines[0][0] - time.monotonic() if self._deadlines else None
                if left is None or left > 0:
                    self._changed.wait(left)
            due = []
            while self._deadlines and self._deadlines[0][0] <= time.monotonic():
                due.append(heapq.heappop(self._deadlines)[2])
            return due
