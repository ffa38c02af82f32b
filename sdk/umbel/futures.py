"""``UmbelFuture``: the future of a call that runs at an endpoint."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator
from concurrent.futures import InvalidStateError, TimeoutError
from typing import Any, Protocol

from .api.outcome import read_error
from .protocol.errors import UmbelError
from .protocol.states import TaskState
from .serialization.codec import load_result
from .system.light_future import LightCondition, LightFuture

logger = logging.getLogger(__name__)

#: A wait of this length (seconds) that ends without a result asks the service about the endpoint.
ASK_AFTER = 5.0

_notify_lock = threading.Lock()
os.register_at_fork(after_in_child=lambda: globals().update(_notify_lock=threading.Lock()))
_SUCCEEDED = TaskState.SUCCEEDED.value
_CANCELLED = TaskState.CANCELLED.value


class Owner(Protocol):
    """What a future needs from the executor that created it."""

    @property
    def endpoint(self) -> str:
        """Name or id of the endpoint."""

    def endpoint_state(self) -> str:
        """Return what is known about the endpoint if it is offline, for messages."""

    def get_state(self, task_id: str) -> TaskState:
        """Return the state of a task at the service."""

    def get_log(self, task_id: str) -> str:
        """Return what a task has written so far."""

    @property
    def forked(self) -> bool:
        """True in a forked child of the process that created it: its threads are the parent's."""

    def stream_items(self, future: UmbelFuture, timeout: float | None) -> Iterator[Any]:
        """Wait until the future's task is accepted, then yield its items."""

    def forget(self, future: UmbelFuture) -> None:
        """Stop waiting for a future that is being cancelled, and cancel its task in the background."""


class UmbelFuture(LightFuture):
    """The ``concurrent.futures.Future`` of one call, as ``Executor.submit`` returns it.

    ``result(timeout)`` and ``exception(timeout)`` wait ``timeout`` seconds. Without a timeout they wait
    indefinitely, also while the endpoint is offline, unless the call has the option ``expires``. They fail
    with ServiceUnavailable if the service stays unreachable for longer than the client's ``patience``. For
    example::

        future = executor.submit(pow, 2, 10)
        future.result(timeout=60)        # 1024, or TimeoutError after a minute; the call continues
        future.record["wall"]            # how long it ran, seconds

    ``result`` raises, and ``exception`` returns, the exception that the function raised, with a
    ``TaskError`` that has the remote traceback as its cause. It is the ``TaskError`` itself when the class of
    the exception cannot be rebuilt safely here, and when the task failed or expired for another reason; its
    ``code`` gives the reason. A cancelled call raises ``concurrent.futures.CancelledError``.

    Callbacks run in the executor's receiving thread and should be short.

    Attributes:
        group_id (str): Id of the executor's task group.
        task_id (str | None): Id of the task. None until the service has accepted the call.
        record (dict | None): The service's record of the finished task, None before: ``task_id``, ``state``,
            ``code``, ``message``, ``completion``, ``node``, ``started``, ``finished`` (seconds since 1970),
            ``queued``, ``wall`` (seconds) and ``usage``: where it ran (``host``, ``pid``, ``slot``) and,
            unless it was very short, what it used (``cpu``, ``user``, ``system`` in seconds; ``max_rss``,
            ``read``, ``written`` in bytes).
    """

    def __init__(self, owner: Owner, group_id: str):
        super().__init__()
        self.group_id = group_id
        self.task_id: str | None = None
        self.record: dict[str, Any] | None = None
        #: Name of the function; and whether it is a generator function.
        self.function: str | None = None
        self.yields = False
        #: True once the program has asked for the outcome.
        self.observed = False
        #: True once nothing waits for its result, because it is being cancelled.
        self.abandoned = False
        self._owner = owner
        self._notified = False

    def result(self, timeout: float | None = None) -> Any:
        """Return the result of the call, or raise its exception; wait for it.

        Args:
            timeout: How long to wait, seconds. Default: indefinitely.

        Returns:
            What the function returned. For a generator that returns nothing, the list of its items.

        Raises:
            TimeoutError: The call has not finished in time; it continues.
            concurrent.futures.CancelledError: The call was cancelled.
            RuntimeError: This process was forked before the call finished: only the parent receives results.
        """
        value = self._outcome(timeout)
        if value is None and self.yields:
            return list(self._owner.stream_items(self, timeout))
        return value

    def _outcome(self, timeout: float | None) -> Any:
        self.observed = True
        if self._owner.forked:
            self.end_in_child()
        try:
            return super().result(timeout)
        except TimeoutError as error:
            if self.done():
                raise  # the function's own
            raise TimeoutError(self._late(timeout)) from error

    def _late(self, timeout: float | None) -> str:
        state = self._owner.endpoint_state() if timeout is not None and timeout >= ASK_AFTER else ""
        task = f"task {self.task_id}" if self.task_id else "the call, which the service has not accepted yet,"
        text = f"{task} of {self.function or 'a function'} at {self._owner.endpoint!r} has not finished"
        return f"{text} within {timeout:g} s{'; ' if state else ''}{state}"

    def __repr__(self) -> str:
        state = super().__repr__().partition(" state=")[2].rstrip(">")
        return (
            f"<UmbelFuture {self.task_id or 'not accepted yet'} function={self.function} "
            f"endpoint={self._owner.endpoint} state={state}>"
        )

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Return the exception of the call, or None if it has a result; wait for it.

        Args:
            timeout: How long to wait, seconds. Default: indefinitely.

        Returns:
            The exception, or None.

        Raises:
            TimeoutError: The call has not finished in time; it continues.
            concurrent.futures.CancelledError: The call was cancelled.
        """
        self.observed = True
        if self._owner.forked:
            self.end_in_child()
        try:
            return super().exception(timeout)
        except TimeoutError as error:
            raise TimeoutError(self._late(timeout)) from error

    def cancel(self) -> bool:
        """Cancel the call, waiting or running. Sends no request in this thread.

        The future is cancelled at once; its result is discarded even if the call has finished at the endpoint
        and the result has not arrived yet. The task is cancelled at the service in the background, together
        with others; a running call is stopped.

        Returns:
            False if the future has already finished with a result or an exception.
        """
        if self.done():
            return self.cancelled()
        self._owner.forget(self)  # first: a callback may wait for the executor
        return self.cancel_here()

    def cancel_here(self) -> bool:
        """Mark the future as cancelled without a request to the service.

        Returns:
            False if the future has already finished.
        """
        if not super().cancel():
            return False
        with _notify_lock:
            first, self._notified = not self._notified, True
        if first:  # wait() and as_completed() are notified of a cancellation only by this
            self.set_running_or_notify_cancel()
        return True

    def running(self) -> bool:
        """Return whether the call is running now. Sends a request to the service.

        Returns:
            False also while the service does not answer, and before it has accepted the call.
        """
        if self.task_id is None or self.done():
            return False
        try:
            return self._owner.get_state(self.task_id) is TaskState.RUNNING
        except UmbelError:
            return False

    def log(self) -> str:
        """Return what the call has written to standard output and error. Sends a request to the service.

        The output of a running call arrives with a delay of about one second.

        Returns:
            The output so far, or as much of it as the option ``output`` keeps.

        Raises:
            RuntimeError: The service has not accepted the call yet.
            ServiceError: The request failed.
        """
        if self.task_id is None:
            raise RuntimeError("the service has not accepted this call yet: it has no output")
        return self._owner.get_log(self.task_id)

    def stream(self, timeout: float | None = None) -> Iterator[Any]:
        """Yield the items that the call yields, from the first one on, while it runs or afterwards.

        For functions that are generators; the result of the future is what the generator returns, or the list
        of its items if it returns nothing. The service
        keeps the items as long as the task, so a stream can be read several times. If the call fails, its
        exception is raised after the last item.

        Args:
            timeout: How long to wait for each item, seconds. Default: wait indefinitely.

        Yields:
            The items, in order.

        Raises:
            TimeoutError: No item has arrived for ``timeout`` seconds.
            StreamRestarted: The call was started again after items were read here.
            TaskError: With the code ``STREAM_INCOMPLETE``: items were lost.
            ServiceError: A request failed.
        """
        if self._owner.forked:
            self._outcome(timeout)  # raises, unless it had finished before the fork
        yield from self._owner.stream_items(self, timeout)
        self._outcome(timeout)

    def finish(self, record: dict[str, Any], result: bytes) -> None:
        """Set the outcome from the service's record of the task, unless the future has already finished.

        Args:
            record: The record, as ``Client.group_results`` returns it, without ``result`` and ``exception``.
            result: The serialized result, or the description of the exception.
        """
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
                pass  # cancelled in the meantime
            # Loading a result runs code of any library; whatever it raises, the future must finish.
            except BaseException as error:
                self.set_exception(error)
        except InvalidStateError:
            pass

    def end_in_child(self) -> None:
        """In a forked child: fail if the call had not finished, because nothing here receives its result.

        The callbacks are not called: the parent calls them. Another thread may have held the lock.
        """
        self._condition = LightCondition()
        self._waiters, self._done_callbacks = [], []
        if not self.done():
            self.set_exception(
                RuntimeError(
                    "this future was created before a fork, and its result arrives in the parent process: "
                    f"wait there, or get the futures of the group with Executor.reload('{self.group_id}')"
                )
            )

    def fail(self, error: BaseException) -> None:
        """Set an exception, unless the future has already finished.

        Args:
            error: The exception.
        """
        try:
            self.set_exception(error)
        except InvalidStateError:
            pass
        except BaseException:  # of a callback: SystemExit, KeyboardInterrupt
            logger.exception("a callback of task %s raised", self.task_id)
