"""What an executor works with: the two threads of one group, and what they share."""

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

#: When the interpreter ends, calls that are not sent yet are given this long (seconds, all sessions
#: together).
EXIT_TIMEOUT = 10.0
#: A future's cancel() and running() wait for the service for this long.
ASK_PATIENCE = 10.0

#: Sessions that may have something to send.
_live: set[Session] = set()


class Session:
    """One group of tasks: a sender, a follower, and the futures between them."""

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
        """Hand over a call. Raises RuntimeError after ``close`` and in a forked child, TooMany."""
        if not self._started:
            self._start()
        self.sender.put(function, Call(payload, future))

    def expect(self, futures: Iterable[UmbelFuture]) -> None:
        """Follow tasks that are at the service already."""
        self._start()
        self.pending.expect(futures)

    def ask_state(self, task_id: str) -> TaskState:
        """Return the state of a task at the service."""
        return TaskState(self.client.get_task(task_id, ASK_PATIENCE)["state"])

    def ask_log(self, task_id: str) -> str:
        """Return what a task has written so far."""
        return str(self.client.get_log(task_id)["text"])

    def ask_items(self, future: UmbelFuture, timeout: float | None) -> Iterator[Any]:
        """Wait until the future's task is accepted, then yield what it yields."""
        self.pending.until_accepted(future, timeout)
        if future.task_id is not None:
            yield from read_stream(self.client, future.task_id, timeout)

    def ask_cancel(self, task_id: str) -> TaskState:
        """Cancel a task at the service; return its state then."""
        return TaskState(self.client.cancel_task(task_id, ASK_PATIENCE)["state"])

    def forget(self, future: UmbelFuture, *, tell: bool) -> None:
        """A future was cancelled; ``tell``: the service has not heard of it yet."""
        self.pending.forget(future)
        self._stop_lingering()
        task_id = future.task_id
        if tell and task_id is not None:
            self.sender.later(lambda: self.client.cancel_task(task_id))

    def drop(self, futures: Iterable[UmbelFuture]) -> None:
        """Cancel futures at once; the service hears of it a little later."""
        for future in futures:
            if not future.done() and future.cancel_here():
                self.forget(future, tell=True)

    def close(self) -> None:
        """Take no more calls; the threads end when all calls have ended."""
        self.sender.close()

    def cancel_all(self, *, whole_group: bool) -> None:
        """Cancel every future that has not ended; ``whole_group``: the group is this session's alone."""
        for future in self.sender.withdraw():
            future.cancel_here()
        waiting = self.pending.waiting()
        under_way = self.pending.under_way()
        for future in [*waiting, *under_way]:
            if future.cancel_here():
                self.forget(future, tell=not whole_group)
        if whole_group and (waiting or under_way):
            self.sender.later(lambda: self.client.cancel_group(self.route.group_id))

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until everything is sent and has ended, then release threads and connections."""
        if not self.follower.here:  # a callback cannot wait for the calls after it
            with self.pending.changed:
                if not self.pending.changed.wait_for(lambda: self.pending.done, timeout):
                    return False
            self.release()
        return True

    def release(self, timeout: float = 10.0) -> None:
        """End the follower and close the connections."""
        self.follower.close(timeout)
        if self._owns_client:
            self.client.close()

    def _start(self) -> None:
        if self.forked:
            raise RuntimeError("this Executor was made before a fork: make a new one in the child process")
        self.sender.start()
        self.follower.start()
        _live.add(self)
        self._started = True

    def _sent_all(self) -> None:
        self.pending.end()
        _live.discard(self)
        self._stop_lingering()

    def _stop_lingering(self) -> None:
        """End the follower's last poll when nothing will come any more."""
        if self.pending.done:
            self.follower.close(timeout=0.0)


@atexit.register
def _at_exit() -> None:
    """Send what is unsent, then let go: the service keeps what it has, nobody waits for results any more."""
    deadline = time.monotonic() + EXIT_TIMEOUT
    for session in list(_live):
        session.close()
        if not session.sender.flush(max(0.0, deadline - time.monotonic())):
            logger.warning("the program ends before all calls could be sent to the service")
        session.release(timeout=1.0)


def _after_fork() -> None:
    # The threads exist in the parent only, and their locks may be held for ever in this process.
    for session in list(_live):
        session.forked = True
        session._started = False
    _live.clear()


os.register_at_fork(after_in_child=_after_fork)
