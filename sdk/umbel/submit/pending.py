"""The futures that wait for results, shared by the sending and the receiving thread."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import TimeoutError
from typing import Any

from ..api.outcome import take_payload
from ..futures import UmbelFuture

#: How often a thread that waits for acceptance checks the future (seconds): not every cancellation notifies.
CHECK_INTERVAL = 0.5


class Pending:
    """Futures that wait for a result, by task id. Thread-safe.

    A result may arrive before the answer to its submission, which has the task's id. Results of unknown tasks
    are therefore kept while a submission is in progress.
    """

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.ending = False  # nothing more will be sent
        self._waiting: dict[str, UmbelFuture] = {}
        self._early: dict[str, dict[str, Any]] = {}
        self._submitting: list[UmbelFuture] = []
        self._submissions = 0
        self._delivering = 0

    def __len__(self) -> int:
        """Number of futures without a result, submissions without an answer and deliveries in progress."""
        return len(self._waiting) + self._submissions + self._delivering

    @property
    def accepted(self) -> int:
        """Number of futures whose task the service has accepted and that have no result yet."""
        return len(self._waiting)

    @property
    def done(self) -> bool:
        """True when no future waits and nothing more will be sent."""
        return self.ending and not len(self)

    def end(self) -> None:
        """Record that nothing more will be sent."""
        with self.changed:
            self.ending = True
            self.changed.notify_all()

    def begin(self, futures: Sequence[UmbelFuture]) -> None:
        """Record that a submission of these futures' calls is about to be sent."""
        with self.changed:
            self._submissions += 1
            self._submitting.extend(futures)
            self.changed.notify_all()

    def accept(self, task_ids: Sequence[str], futures: Sequence[UmbelFuture]) -> list[str]:
        """Record that the submission was accepted; return ids of tasks whose futures were cancelled since."""
        early: list[tuple[UmbelFuture, dict[str, Any]]] = []
        cancelled = []
        with self.changed:
            for task_id, future in zip(task_ids, futures):
                future.task_id = task_id
                row = self._early.pop(task_id, None) if self._early else None
                if row is not None:
                    early.append((future, row))
                elif future.cancelled():
                    cancelled.append(task_id)
                else:
                    self._waiting[task_id] = future
            self._delivering += 1
            self._end_submission()
        self._finish(early)
        return cancelled

    def wait_until_accepted(self, future: UmbelFuture, timeout: float | None) -> None:
        """Wait until the call is accepted or the future has finished. Raises TimeoutError."""
        deadline = None if timeout is None else time.monotonic() + timeout
        with self.changed:
            while future.task_id is None and not future.done():
                left = CHECK_INTERVAL
                if deadline is not None:
                    left = min(left, deadline - time.monotonic())
                if left <= 0:
                    raise TimeoutError("the service has not accepted the call yet")
                self.changed.wait(left)

    def reject(self, error: BaseException) -> None:
        """Record that the submission failed; fail its futures."""
        with self.changed:
            futures = self._submitting
            self._delivering += 1
            self._end_submission()
        for future in futures:
            future.fail(error)
        self._delivered()

    def expect(self, futures: Iterable[UmbelFuture]) -> None:
        """Add futures whose tasks the service has accepted already."""
        with self.changed:
            self._waiting.update((str(future.task_id), future) for future in futures)
            self.changed.notify_all()

    def deliver(self, rows: Iterable[dict[str, Any]]) -> None:
        """Resolve the futures of finished tasks. Tasks that no future waits for are ignored."""
        known = []
        with self.changed:
            for row in rows:
                future = self._waiting.pop(row["task_id"], None)
                if future is not None:
                    known.append((future, row))
                elif self._submissions:
                    self._early[row["task_id"]] = row
            self._delivering += 1
        self._finish(known)

    def forget(self, future: UmbelFuture) -> None:
        """Stop waiting for a future."""
        with self.changed:
            if future.task_id is not None:
                self._waiting.pop(future.task_id, None)
            self.changed.notify_all()

    def waiting(self) -> list[UmbelFuture]:
        """Return the futures that wait for the result of an accepted task."""
        with self.changed:
            return list(self._waiting.values())

    def submitting(self) -> list[UmbelFuture]:
        """Return the futures of the submission in progress."""
        with self.changed:
            return list(self._submitting)

    def fail_all(self, error: BaseException) -> None:
        """Fail every waiting future."""
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
        self._submitting = []
        self._early.clear()

    def _finish(self, rows: list[tuple[UmbelFuture, dict[str, Any]]]) -> None:
        # outside the lock: users' callbacks run here
        for future, row in rows:
            future.finish(row, take_payload(row))
        self._delivered()

    def _delivered(self) -> None:
        with self.changed:
            self._delivering -= 1
            self.changed.notify_all()
