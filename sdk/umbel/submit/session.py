"""The state behind an executor: the two threads of one group, and the data that they share."""

from __future__ import annotations

import atexit
import logging
import os
import time
from collections.abc import Iterable, Iterator
from typing import Any

from ..api.client import Client
from ..api.options import Options
from ..api.streams import read_stream
from ..futures import UmbelFuture
from ..protocol.states import TaskState
from ..serialization.codec import FunctionBody
from .calls import Batch, Call, Route
from .canceller import Canceller
from .follower import Follower
from .function_cache import FunctionCache
from .pending import Pending
from .sender import Sender

logger = logging.getLogger(__name__)

#: How long the exit of the interpreter waits for unsent calls (seconds, all sessions together).
EXIT_TIMEOUT = 10.0
#: How long a future's ``running`` waits for the service (seconds).
FUTURE_PATIENCE = 10.0
#: How long the end of an executor waits for cancellations to reach the service (seconds).
CANCEL_TIMEOUT = 10.0
#: How long the cancellation of unstarted calls waits for the answer to the first submission (seconds).
FIRST_ANSWER_TIMEOUT = 0.5

#: Sessions that may have unsent calls.
_live: set[Session] = set()


class Session:
    """The threads of one task group, and the futures that they share."""

    def __init__(self, client: Client, route: Route, owns_client: bool = False):
        self.client = client
        self.route = route
        self.functions = FunctionCache()
        self.pending = Pending()
        self.canceller = Canceller(client, route.group_id)
        self.sender = Sender(
            client, self.pending, route, self.canceller, ended=self._sent_all, on_reject=self._rejected
        )
        self.follower = Follower(client, self.pending, route.group_id)
        self.forked = False
        self._owns_client = owns_client
        self._started = False
        self._cancelling = ""

    def future(self) -> UmbelFuture:
        """Return a new future of this group."""
        return UmbelFuture(self, self.route.group_id)

    def send(self, function: FunctionBody, payload: bytes, future: UmbelFuture, options: Options) -> None:
        """Queue a call. Raises RuntimeError after ``close`` and in a forked child, TooMany."""
        if not self._started:
            self._start()
        self.sender.put(function, Call(payload, future), options)

    def expect(self, futures: Iterable[UmbelFuture]) -> None:
        """Wait for tasks that the service has accepted already."""
        self._start()
        self.pending.expect(futures)

    def get_state(self, task_id: str) -> TaskState:
        """Return the state of a task at the service."""
        return TaskState(self.client.get_task(task_id, FUTURE_PATIENCE)["state"])

    def get_log(self, task_id: str) -> str:
        """Return what a task has written so far."""
        return str(self.client.get_log(task_id)["text"])

    def stream_items(self, future: UmbelFuture, timeout: float | None) -> Iterator[Any]:
        """Wait until the future's task is accepted, then yield its items."""
        self.pending.wait_until_accepted(future, timeout)
        if future.task_id is not None:
            yield from read_stream(self.client, future.task_id, timeout)

    def forget(self, future: UmbelFuture) -> None:
        """Stop waiting for a future that is being cancelled, and cancel its task in the background."""
        self._forget([future])

    def cancel_later(self, futures: Iterable[UmbelFuture]) -> None:
        """Mark futures as cancelled now and cancel their tasks at the service in the background."""
        unfinished = [future for future in futures if not future.done()]
        self._forget(unfinished)
        for future in unfinished:
            future.cancel_here()

    def close(self) -> None:
        """Accept no more calls. The threads stop when all calls have finished."""
        self.sender.close()

    def cancel_unstarted(self, *, whole_group: bool) -> None:
        """Cancel the calls that have not started; ``whole_group``: the group has no other session's tasks.

        The service knows which calls have started. The futures of the others are cancelled when it says so.
        """
        self._cancelling = "group" if whole_group else "tasks"
        # as with the standard library's executors, the first calls start if there are idle workers
        self.sender.wait_for_answer(FIRST_ANSWER_TIMEOUT)
        for future in self.sender.discard_unsent():
            future.cancel_here()
        self._cancel_accepted()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until all calls have finished, then release threads and connections; False on timeout.

        In a callback, which runs in one of the threads, return at once: it cannot wait for later calls.
        """
        if (
            self.follower.is_current_thread
            or self.sender.is_current_thread
            or self.canceller.is_current_thread
        ):
            return True
        with self.pending.changed:
            if not self.pending.changed.wait_for(lambda: self.pending.done, timeout):
                return False
        self.sender.join()
        self.canceller.flush(CANCEL_TIMEOUT)
        self.release()
        return True

    def release(self, timeout: float = 10.0) -> None:
        """Stop the follower and close the connections."""
        self.follower.close(timeout)
        if self._owns_client:
            self.client.close()

    def _start(self) -> None:
        if self.forked:
            raise RuntimeError(
                "this Executor was created before a fork: create a new one in the child process"
            )
        self.sender.start()
        self.follower.start()
        _live.add(self)
        self._started = True

    def _forget(self, futures: Iterable[UmbelFuture]) -> None:
        task_ids = self.pending.forget(futures)
        if task_ids and not self.forked:
            self.canceller.cancel(task_ids)
        self._stop_last_poll()

    def _cancel_accepted(self) -> None:
        accepted = [future.task_id for future in self.pending.waiting() if future.task_id is not None]
        if accepted:
            whole_group = self._cancelling == "group"
            self.canceller.cancel_unstarted(None if whole_group else accepted, self._cancel_waiting)

    def _cancel_waiting(self) -> None:
        self.cancel_later(self.pending.waiting())

    def _rejected(self, batch: Batch, error: BaseException) -> None:
        if self._cancelling:
            for future in batch.futures:
                future.cancel_here()

    def _sent_all(self) -> None:
        self.pending.end()
        _live.discard(self)
        if self._cancelling:  # a submission was in progress
            self._cancel_accepted()
        self._stop_last_poll()

    def _stop_last_poll(self) -> None:
        """Stop the follower's poll when no more results can arrive."""
        if self.pending.done:
            self.follower.close(timeout=0.0)


@atexit.register
def _at_exit() -> None:
    """Send unsent calls, then release all sessions. The service keeps the results."""
    deadline = time.monotonic() + EXIT_TIMEOUT
    for session in list(_live):
        session.close()
        if not session.sender.flush(max(0.0, deadline - time.monotonic())):
            logger.warning(
                "group %s: the program exits before all calls were submitted", session.route.group_id
            )
        session.release(timeout=1.0)


def _after_fork() -> None:
    # The threads exist in the parent only, and this process may never release their locks.
    for session in list(_live):
        session.forked = True
        session._started = False
    _live.clear()


os.register_at_fork(after_in_child=_after_fork)
