"""The futures that wait for results, shared by the sending and the receiving thread."""

from __future__ import annotations

import copy
import logging
import threading
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import TimeoutError
from typing import Any

from ..api.outcome import take_payload
from ..futures import UmbelFuture

logger = logging.getLogger(__name__)

#: How often a thread that waits for acceptance checks the future (seconds): not every cancellation notifies.
CHECK_INTERVAL = 0.5


class Pending:
    """Futures that wait for a result, by task id. Thread-safe.

    A result may arrive before the answer to its submission, which has the task's id. Results of unknown tasks
    are therefore kept while a submission is in progress.
    """

    def __init__(self) -> None:
        self.ending = False  # nothing more will be sent
        self._reset()

    def _reset(self) -> None:
        self.changed = threading.Condition()
        self._waiting: dict[str, UmbelFuture] = {}
        self._early: dict[str, dict[str, Any]] = {}
        self._submitting: Sequence[UmbelFuture] | None = None
        self._delivering = 0

    def take_in_child(self) -> list[UmbelFuture]:
        """In a forked child: forget all futures and return them; another thread may have held the lock."""
        found = [*self._waiting.values(), *(self._submitting or ())]
        self._reset()
        return found

    def __len__(self) -> int:
        """Number of futures without a result, submissions without an answer and deliveries in progress."""
        return len(self._waiting) + (self._submitting is not None) + self._delivering

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
            self._submitting = futures
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
                elif future.abandoned or future.cancelled():
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
            futures = self._submitting or ()
            self._delivering += 1
            self._end_submission()
        self._fail(futures, error)

    def withdraw(self) -> None:
        """Record that the submission had no effect, and that its calls will be submitted again."""
        with self.changed:
            self._end_submission()

    def expect(self, futures: Iterable[UmbelFuture]) -> None:
        """Add futures whose tasks the service has accepted already."""
        with self.changed:
            self._waiting.update((str(future.task_id), future) for future in futures)
            self.changed.notify_all()

    def deliver(self, rows: Iterable[dict[str, Any]]) -> None:
        """Resolve the futures of finished tasks. Tasks that no future waits for are ignored."""
        found = [(row["task_id"], row) for row in rows]  # a row without it must not cost the others
        known = []
        with self.changed:
            for task_id, row in found:
                future = self._waiting.pop(task_id, None)
                if future is not None:
                    known.append((future, row))
                elif self._submitting is not None:
                    self._early[task_id] = row
            self._delivering += 1
        self._finish(known)

    def forget(self, futures: Iterable[UmbelFuture]) -> list[str]:
        """Stop waiting for futures; return their task ids. ``accept`` returns those that have none yet."""
        task_ids = []
        with self.changed:
            for future in futures:
                future.abandoned = True
                if future.task_id is not None:
                    self._waiting.pop(future.task_id, None)
                    task_ids.append(future.task_id)
            self.changed.notify_all()
        return task_ids

    def waiting(self) -> list[UmbelFuture]:
        """Return the futures that wait for the result of an accepted task."""
        with self.changed:
            return list(self._waiting.values())

    def submitting(self) -> list[UmbelFuture]:
        """Return the futures of the submission in progress."""
        with self.changed:
            return list(self._submitting or ())

    def fail_all(self, error: BaseException) -> None:
        """Fail every waiting future."""
        with self.changed:
            futures = list(self._waiting.values())
            self._waiting.clear()
            self._delivering += 1
        self._fail(futures, error)

    def _end_submission(self) -> None:
        # one sender, so one submission at a time
        self._submitting = None
        self._early.clear()

    def _finish(self, rows: list[tuple[UmbelFuture, dict[str, Any]]]) -> None:
        # outside the lock: users' callbacks run here
        try:
            for future, row in rows:
                try:
                    future.finish(row, take_payload(row))
                # a defect in one answer must not leave other futures unresolved
                except BaseException as error:
                    logger.exception("task %s: unexpected error in its result", future.task_id)
                    future.fail(error)
        finally:
            self._delivered()

    def _fail(self, futures: Iterable[UmbelFuture], error: BaseException) -> None:
        try:
            for future in futures:
                # a copy for each: raising an exception extends its traceback
                future.fail(copy_of(error))
        finally:
            self._delivered()

    def _delivered(self) -> None:
        with self.changed:
            self._delivering -= 1
            self.changed.notify_all()


def copy_of(error: BaseException) -> BaseException:
    """Return a copy of an exception with its cause and traceback; itself if it cannot be copied."""
    try:
        copied = copy.copy(error)
    except Exception:  # classes with unusual constructors cannot be copied
        return error
    if type(copied) is not type(error):
        return error
    copied.__cause__ = error.__cause__
    copied.__suppress_context__ = error.__suppress_context__
    return copied.with_traceback(error.__traceback__)
