"""Futures of calls that run somewhere else."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from concurrent.futures import Future, InvalidStateError
from typing import Any, Protocol

from .api.outcome import read_error
from .protocol.errors import UmbelError
from .protocol.states import TaskState
from .serialization.codec import load_result

logger = logging.getLogger(__name__)

_telling = threading.Lock()
_SUCCEEDED = TaskState.SUCCEEDED.value
_CANCELLED = TaskState.CANCELLED.value


class Owner(Protocol):
    """What a future asks of the executor that made it."""

    def ask_state(self, task_id: str) -> TaskState:
        """Return the state of a task at the service."""

    def ask_log(self, task_id: str) -> str:
        """Return what a task has written so far."""

    def ask_items(self, future: UmbelFuture, timeout: float | None) -> Iterator[Any]:
        """Wait until the future's task is accepted, then yield what it yields."""

    def ask_cancel(self, task_id: str) -> TaskState:
        """Cancel a task at the service; return its state then."""

    def forget(self, future: UmbelFuture, *, tell: bool) -> None:
        """A future was cancelled; ``tell``: the service has not heard of it yet."""


class UmbelFuture(Future[Any]):
    """A ``concurrent.futures.Future`` of one task.

    ``group_id``: its group. ``task_id``: its task, None until the service has accepted it. ``record``: what
    the service says of the finished task, None before: state, code, message, node, times (queued, started,
    finished, wall) and usage: where it ran (host, pid, slot) and, unless it was very short, what it used
    (cpu, user, system in seconds; max_rss, read, written in bytes).

    ``exception()`` is the function's own exception, with the remote traceback in its cause, if its class can
    be rebuilt safely, else a TaskError. Callbacks run in the executor's receiving thread and should be short.
    """

    def __init__(self, owner: Owner, group_id: str):
        super().__init__()
        self.group_id = group_id
        self.task_id: str | None = None
        self.record: dict[str, Any] | None = None
        self._owner = owner
        self._told = False

    def cancel(self) -> bool:
        """Cancel the call, also while it runs; False if it has ended already or the service does not answer.

        A call that has not been accepted yet is cancelled here, and at the service as soon as it is known
        there.
        """
        task_id = self.task_id
        if task_id is not None and not self.done():
            try:
                if self._owner.ask_cancel(task_id) is not TaskState.CANCELLED:
                    return False
            except UmbelError as error:
                logger.warning("task %s cannot be cancelled: %s", task_id, error)
                return False
        if not self.cancel_here():
            return False
        self._owner.forget(self, tell=task_id is None)
        return True

    def cancel_here(self) -> bool:
        """Mark the future as cancelled without asking anybody; False if it has ended already."""
        if not super().cancel():
            return False
        with _telling:
            first, self._told = not self._told, True
        if first:  # wait() and as_completed() hear of a cancellation only by this
            self.set_running_or_notify_cancel()
        return True

    def running(self) -> bool:
        """Tell whether the call is being executed now; asks the service, False if it does not answer."""
        if self.task_id is None or self.done():
            return False
        try:
            return self._owner.ask_state(self.task_id) is TaskState.RUNNING
        except UmbelError:
            return False

    def log(self) -> str:
        """What the call has written to standard output and error so far; asks the service.

        Of a running call it is about a second old. Raises ServiceError; RuntimeError before the call is
        accepted.
        """
        if self.task_id is None:
            raise RuntimeError("the service has not accepted this call yet: there is nothing to read")
        return self._owner.ask_log(self.task_id)

    def stream(self, timeout: float | None = None) -> Iterator[Any]:
        """Yield what the call yields, as it comes; then raise what the call raised, if it did.

        For a function that is a generator; the future's result is what that returns. Items are kept as long
        as the task: each ``stream()`` begins with the first. Raises TimeoutError when nothing comes for
        ``timeout`` seconds (None: waits as long as it takes), StreamRestarted when the call is started again
        after items were read here, TaskError (``STREAM_INCOMPLETE``) when items were lost, ServiceError.
        """
        yield from self._owner.ask_items(self, timeout)
        self.result(timeout)

    def finish(self, record: dict[str, Any], result: bytes) -> None:
        """Take the end of the task from the service's record; a future that has ended stays as it is."""
        self.record = record
        state = record["state"]
        if state == _CANCELLED:
            self.cancel_here()
            return
        try:
            try:
                if state == _SUCCEEDED:
                    self.set_result(load_result(result))
                else:
                    self.set_exception(read_error(record, result))
            except InvalidStateError:
                pass  # cancelled a moment ago
            # Loading a result runs code of any library; whatever it raises, the future must not hang.
            except BaseException as error:
                self.set_exception(error)
        except InvalidStateError:
            pass

    def fail(self, error: BaseException) -> None:
        """End with an exception unless the future has ended already."""
        try:
            self.set_exception(error)
        except InvalidStateError:
            pass
