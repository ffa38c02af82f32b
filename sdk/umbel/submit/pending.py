"""Which futures wait for which tasks, seen from the sending and from the receiving thread."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import TimeoutError
from typing import Any

from ..api.outcome import take_payload
from ..futures import UmbelFuture

#: Who waits for a future looks at it so often (seconds): not every way of cancelling tells.
GLANCE = 0.5


class Pending:
    """Futures that wait for a result, by task id. Thread-safe.

    A result may arrive before the answer of the submission that tells the task's id: such results are parked
    while any submission is under way.
    """

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.ending = False  # nothing more will be sent
        self._waiting: dict[str, UmbelFuture] = {}
        self._parked: dict[str, dict[str, Any]] = {}
        self._under_way: list[UmbelFuture] = []
        self._submissions = 0
        self._delivering = 0

    def __len__(self) -> int:
        """Return how many futures wait for a result, and submissions for their answer."""
        return len(self._waiting) + self._submissions + self._delivering

    @property
    def accepted(self) -> int:
        """How many futures wait for the result of a task that the service has accepted."""
        return len(self._waiting)

    @property
    def done(self) -> bool:
        """True when nothing is waited for and nothing more will be sent."""
        return self.ending and not len(self)

    def end(self) -> None:
        """Nothing more will be sent."""
        with self.changed:
            self.ending = True
            self.changed.notify_all()

    def begin(self, futures: Sequence[UmbelFuture]) -> None:
        """A submission is about to be sent."""
        with self.changed:
            self._submissions += 1
            self._under_way.extend(futures)
            self.changed.notify_all()

    def accept(self, task_ids: Sequence[str], futures: Sequence[UmbelFuture]) -> list[str]:
        """The submission was accepted; return the ids of those tasks that were cancelled meanwhile."""
        early: list[tuple[UmbelFuture, dict[str, Any]]] = []
        unwanted = []
        with self.changed:
            for task_id, future in zip(task_ids, futures):
                future.task_id = task_id
                row = self._parked.pop(task_id, None) if self._parked else None
                if row is not None:
                    early.append((future, row))
                elif future.cancelled():
                    unwanted.append(task_id)
                else:
                    self._waiting[task_id] = future
            self._delivering += 1
            self._end_submission()
        self._finish(early)
        return unwanted

    def until_accepted(self, future: UmbelFuture, timeout: float | None) -> None:
        """Wait until the service has accepted a future's call, or the future ended. Raises TimeoutError."""
        deadline = None if timeout is None else time.monotonic() + timeout
        with self.changed:
            while future.task_id is None and not future.done():
                left = GLANCE if deadline is None else min(GLANCE, deadline - time.monotonic())
                if left <= 0:
                    raise TimeoutError("the service has not accepted the call yet")
                self.changed.wait(left)

    def refuse(self, error: BaseException) -> None:
        """The submission failed: so do its futures."""
        with self.changed:
            futures = self._under_way
            self._delivering += 1
            self._end_submission()
        for future in futures:
            future.fail(error)
        self._delivered()

    def expect(self, futures: Iterable[UmbelFuture]) -> None:
        """Wait for tasks that are known already."""
        with self.changed:
            self._waiting.update((str(future.task_id), future) for future in futures)
            self.changed.notify_all()

    def deliver(self, rows: Iterable[dict[str, Any]]) -> None:
        """Give finished tasks to their futures; those of other people's tasks in the group are dropped."""
        known = []
        with self.changed:
            for row in rows:
                future = self._waiting.pop(row["task_id"], None)
                if future is not None:
                    known.append((future, row))
                elif self._submissions:
                    self._parked[row["task_id"]] = row
            self._delivering += 1
        self._finish(known)

    def forget(self, future: UmbelFuture) -> None:
        """Stop waiting for a future."""
        with self.changed:
            if future.task_id is not None:
                self._waiting.pop(future.task_id, None)
            self.changed.notify_all()

    def waiting(self) -> list[UmbelFuture]:
        """Return the futures that wait for a result."""
        with self.changed:
            return list(self._waiting.values())

    def under_way(self) -> list[UmbelFuture]:
        """Return the futures of the submission that is on its way."""
        with self.changed:
            return list(self._under_way)

    def fail_all(self, error: BaseException) -> None:
        """End every waiting future with an error."""
        with self.changed:
            futures = list(self._waiting.values())
            self._waiting.clear()
            self._delivering += 1
        for future in futures:
            future.fail(error)
        self._delivered()

    def _end_submission(self) -> None:
        # one sender, so one submission at a time
        self._submissions -= 1
        self._under_way = []
        self._parked.clear()

    def _finish(self, rows: list[tuple[UmbelFuture, dict[str, Any]]]) -> None:
        # outside the lock: callbacks of users run here
        for future, row in rows:
            future.finish(row, take_payload(row))
        self._delivered()

    def _delivered(self) -> None:
        with self.changed:
            self._delivering -= 1
            self.changed.notify_all()
