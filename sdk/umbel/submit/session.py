"""The state behind an executor: the two threads of one group, and the data that they share."""

from __future__ import annotations

import atexit
import os
import time
import weakref
from collections.abc import Iterable, Iterator
from concurrent.futures import TimeoutError
from typing import Any

from ..api.client import Client
from ..api.options import Options
from ..api.streams import read_stream
from ..futures import UmbelFuture
from ..protocol.errors import ServiceUnavailable, TooMany, UmbelError
from ..protocol.states import TaskState
from ..serialization.codec import FunctionBody
from .calls import Batch, Call, Route
from .canceller import Canceller, flush_all, forget_all
from .ending import Rejects, submit_or_store
from .follower import Follower
from .function_cache import FunctionCache
from .pending import Pending
from .sender import MAX_UNSENT_BYTES, MAX_UNSENT_CALLS, Sender
from .spool import Spool, send_in_background

#: How long the exit of the interpreter waits for unsent calls (seconds, all sessions together).
EXIT_TIMEOUT = 10.0
#: How long a future's ``running`` waits for the service (seconds).
FUTURE_PATIENCE = 10.0
#: How long an exit waits for cancellations (seconds).
CANCEL_TIMEOUT = 10.0
#: How long the cancellation of unstarted calls waits for the answer to the first submission (seconds).
FIRST_ANSWER_TIMEOUT = 0.5

#: Sessions that may have unsent calls.
_live: set[Session] = set()
_all: weakref.WeakSet[Session] = weakref.WeakSet()
#: Submissions that failed because the service did not accept them.
_rejects: Rejects[Session] = Rejects(MAX_UNSENT_CALLS, MAX_UNSENT_BYTES)


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
        _all.add(self)
        self._owns_client = owns_client
        self._started = False
        self._cancelling = ""
        self.exiting = False

    def future(self) -> UmbelFuture:
        """Return a new future of this group."""
        return UmbelFuture(self, self.route.group_id)

    def send(self, function: FunctionBody, payload: bytes, future: UmbelFuture, options: Options) -> None:
        """Queue a call. Raises RuntimeError after ``close`` and in a forked child, TooMany."""
        if not self._started:
            self._start()
        self.sender.put(function, Call(payload, future, time.monotonic()), options)

    def expect(self, futures: Iterable[UmbelFuture]) -> None:
        """Wait for tasks that the service has accepted already."""
        self._start()
        self.pending.expect(futures)

    def get_state(self, task_id: str) -> TaskState:
        """Return the state of a task at the service."""
        return TaskState(self.client.get_task(task_id, FUTURE_PATIENCE)["state"])

    @property
    def endpoint(self) -> str:
        """Name or id of the endpoint."""
        return self.route.endpoint

    def endpoint_state(self) -> str:
        """Return what is known about the endpoint now, for messages; empty if it is online or unknown."""
        try:
            record = self.client.get_endpoint(self.route.endpoint, patience=0.0)
        except UmbelError:
            return ""
        if record["state"] != "offline":
            return ""
        seen = record.get("last_heartbeat")
        since = "has never been online" if seen is None else f"is offline since {time.ctime(seen)}"
        return f"endpoint {self.endpoint!r} {since}; start it with 'umbel-endpoint start'"

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

    def flush(self, timeout: float | None) -> None:
        """Wait until the service has accepted all calls; see ``Executor.flush``."""
        if self.sender.is_current_thread:
            raise RuntimeError("flush() cannot be called in a callback of a rejected call")
        if not self.sender.flush(timeout):
            raise TimeoutError(f"the service has not accepted all calls within {timeout:g} s")
        error = self.sender.take_failure()
        if error is not None:
            raise error

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
        send_in_background(self.client)

    def _forget(self, futures: Iterable[UmbelFuture]) -> None:
        task_ids = self.pending.forget(futures)
        if task_ids and not self.forked:
            self.canceller.cancel(task_ids)
        self._stop_last_poll()

    def _cancel_accepted(self) -> None:
        accepted = [future.task_id for future in self.pending.waiting() if future.task_id is not None]
        if accepted:
            ids = None if self._cancelling == "group" else accepted
            self.canceller.cancel_unstarted(ids, lambda: self.cancel_later(self.pending.waiting()))

    def _rejected(self, batch: Batch, error: BaseException) -> None:
        unsent = isinstance(error, (ServiceUnavailable, TooMany)) and not self._cancelling
        if unsent and getattr(self.client.transport, "account", None) is not None:
            _rejects.add(self, [batch])
            if self.exiting:  # the others would fail in the same way
                _rejects.add(self, self.sender.take_unsent())
        if self._cancelling:
            for future in batch.futures:
                future.cancel_here()

    def _sent_all(self) -> None:
        self.pending.end()
        _live.discard(self)
        if self._cancelling:
            self._cancel_accepted()  # a submission was in progress
        self._stop_last_poll()

    def _stop_last_poll(self) -> None:
        """Stop the follower's poll when no more results can arrive."""
        if self.pending.done:
            self.follower.close(timeout=0.0)


class _Exit:
    """What the exit of the interpreter needs of a session; see ``ending.Unfinished``."""

    def __init__(self, session: Session):
        self._session = session

    @property
    def patience(self) -> float:
        """How long the exit of the interpreter waits for unsent calls (seconds)."""
        if self._session.route.submit_timeout is not None:
            return self._session.route.submit_timeout
        return float(getattr(self._session.client.transport, "patience", EXIT_TIMEOUT))

    @property
    def submitted_calls(self) -> int:
        """Number of calls that were submitted with this session."""
        return self._session.sender.total

    @property
    def has_unsent(self) -> bool:
        """True if the service has not accepted all calls, and the program may not know it."""
        return not self._session.sender.flush(0.0) or bool(_rejects.of(self._session))

    @property
    def spool(self) -> Spool | None:
        """Where calls are stored that cannot be submitted; None: the transport is not to a service."""
        account = getattr(self._session.client.transport, "account", None)
        return None if account is None else Spool(account)

    def flush_at_exit(self, timeout: float) -> bool:
        """Wait until nothing is unsent, or a submission has failed; False after ``timeout`` seconds."""
        return self._session.sender.flush(timeout)

    def take_unsent(self) -> list[Batch]:
        """Remove and return what the service has not accepted."""
        unsent = self._session.sender.take_unsent()
        batches = {batch.key: batch for batch in [*_rejects.of(self._session), *unsent]}
        # a function that the service will reject must not cost the calls of others
        split = [[batch] if batch.tried else batch.split() for batch in batches.values()]
        return [each for found in split for each in found if each.calls]

    def store(self, batch: Batch) -> None:
        """Store a batch in the spool. Raises OSError."""
        spool = self.spool
        if spool is None:
            raise OSError("there is no service to submit them to")
        spool.save(batch, self._session.route)


@atexit.register
def _at_exit() -> None:
    """Submit or store unsent calls, then release all sessions. The service keeps the results."""
    sessions = list(_live | _rejects.sessions())
    for session in sessions:
        session.exiting = True
        session.close()
    exits = [_Exit(session) for session in sessions]
    submit_or_store([each for each in exits if each.has_unsent])
    flush_all(CANCEL_TIMEOUT)
    for session in sessions:
        session.release(timeout=1.0)


def _after_fork() -> None:
    # The threads exist in the parent only, and this process may never release their locks.
    for session in list(_all):
        session.forked = True
        session._started = False
        # nothing would resolve the futures here
        futures = [*session.pending.take_in_child(), *session.sender.take_in_child()]
        session.canceller.reset()
        session.functions.reset()
        for future in futures:
            future.end_in_child()
    _live.clear()
    forget_all()
    _rejects.clear()


os.register_at_fork(after_in_child=_after_fork)
