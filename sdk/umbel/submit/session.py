"""The state behind an executor: the two threads of one group, and the data that they share."""

from __future__ import annotations

import atexit
import logging
import os
import time
from collections.abc import Iterable, Iterator
from typing import Any

from ..api.client import Client
from ..api.streams import read_stream
from ..futures import UmbelFuture
from ..protocol.states import TaskState
from ..serialization.codec import FunctionBody
from .follower import Follower
from .function_cache import FunctionCache
from .pending import Pending
from .sender import Call, Route, Sender

logger = logging.getLogger(__name__)

#: How long the exit of the interpreter waits for unsent calls (seconds, all sessions together).
EXIT_TIMEOUT = 10.0
#: How long a future's ``cancel`` and ``running`` wait for the service (seconds).
FUTURE_PATIENCE = 10.0

#: Sessions that may have unsent calls.
_live: set[Session] = set()


class Session:
    """A sender and a follower of one task group, and the futures that they share."""

    def __init__(self, client: Client, route: Route, owns_client: bool = False):
        self.client = client
        self.route = route
        self.functions = FunctionCache()
        self.pending = Pending()
        self.sender = Sender(client, self.pending, route, self._sent_all)
        self.follower = Follower(client, self.pending, route.group_id)
        self.forked = False
        self._owns_client = owns_client
        self._started = False

    def future(self) -> UmbelFuture:
        """Return a new future of this group."""
        return UmbelFuture(self, self.route.group_id)

    def send(self, function: FunctionBody, payload: bytes, future: UmbelFuture) -> None:
        """Queue a call. Raises RuntimeError after ``close`` and in a forked child, TooMany."""
        if not self._started:
            self._start()
        self.sender.put(function, Call(payload, future))

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

    def cancel_task(self, task_id: str) -> TaskState:
        """Cancel a task at the service; return its state after that."""
        return TaskState(self.client.cancel_task(task_id, FUTURE_PATIENCE)["state"])

    def forget(self, future: UmbelFuture, *, cancel: bool) -> None:
        """Stop waiting for a cancelled future; ``cancel``: cancel its task at the service, too."""
        self.pending.forget(future)
        self._stop_last_poll()
        task_id = future.task_id
        if cancel and task_id is not None:
            self.sender.enqueue_job(lambda: self.client.cancel_task(task_id))

    def cancel_later(self, futures: Iterable[UmbelFuture]) -> None:
        """Mark futures as cancelled now and cancel their tasks at the service in the sending thread."""
        for future in futures:
            if not future.done() and future.cancel_here():
                self.forget(future, cancel=True)

    def close(self) -> None:
        """Accept no more calls. The threads stop when all calls have finished."""
        self.sender.close()

    def cancel_all(self, *, whole_group: bool) -> None:
        """Cancel every unfinished future; ``whole_group``: the group has tasks of this session only."""
        for future in self.sender.discard_unsent():
            future.cancel_here()
        waiting = self.pending.waiting()
        submitting = self.pending.submitting()
        for future in [*waiting, *submitting]:
            if future.cancel_here():
                self.forget(future, cancel=not whole_group)
        if whole_group and (waiting or submitting):
            self.sender.enqueue_job(lambda: self.client.cancel_group(self.route.group_id))

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until all calls have finished, then release threads and connections; False on timeout."""
        if not self.follower.is_current_thread:  # a callback cannot wait for the calls after it
            with self.pending.changed:
                if not self.pending.changed.wait_for(lambda: self.pending.done, timeout):
                    return False
            self.sender.join()
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

    def _sent_all(self) -> None:
        self.pending.end()
        _live.discard(self)
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
