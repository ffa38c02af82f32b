"""The sending thread: single calls in, a few large submissions out.

A lone call is sent at once. Calls that arrive while a submission is in progress go together in the next one,
so the number of calls per request adapts to the speed of the service. The first submissions of a burst are
small, so that the endpoint has work while the service stores the large ones (as TCP's slow start, RFC 5681).
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from ..api.client import Client
from ..api.options import Options
from ..futures import UmbelFuture
from ..protocol.errors import NotFound, TooMany, UmbelError
from ..protocol.limits import MAX_CALLS_PER_SUBMISSION
from ..serialization.codec import FunctionBody
from .pending import Pending

logger = logging.getLogger(__name__)

#: A submission is filled up to this many bytes (one larger call still makes one of its own).
SUBMISSION_BYTES = 8 * 1024 * 1024
#: ``submit`` blocks while more than this is unsent (calls; bytes of arguments).
MAX_UNSENT_CALLS = 20_000
MAX_UNSENT_BYTES = 64 * 1024 * 1024
#: Most calls of the first submission of a burst, and how much larger each of the next may be.
FIRST_CALLS, GROWTH = 64, 8
#: Bytes of a call in addition to its arguments.
CALL_OVERHEAD = 8


class Call(NamedTuple):
    """One call that is not submitted yet."""

    payload: bytes
    future: UmbelFuture


@dataclass(frozen=True)
class Route:
    """Endpoint, group and options of submissions, and how large they may be; see ``Executor``."""

    endpoint: str
    group_id: str
    options: Options
    batch_size: int = MAX_CALLS_PER_SUBMISSION
    batch_interval: float = 0.0
    submit_timeout: float | None = None


class Sender:
    """Collects calls and submits them from its own thread."""

    def __init__(self, client: Client, pending: Pending, route: Route, ended: Callable[[], None]):
        """``ended`` is called when everything is sent and no more calls can come."""
        self._client = client
        self._ended = ended
        self._pending = pending
        self._route = route
        self._changed = threading.Condition(threading.Lock())
        self._unsent: dict[FunctionBody, deque[Call]] = {}
        self._jobs: deque[Callable[[], object]] = deque()
        self._calls = 0
        self._bytes = 0
        self._most = FIRST_CALLS
        self._idle = False
        self._busy = False
        self._closed = False
        self._given_up = threading.Event()
        self._thread: threading.Thread | None = None

    def put(self, function: FunctionBody, call: Call) -> None:
        """Queue a call; waits while too much is unsent.

        Raises RuntimeError after ``close``, TooMany when it had to wait longer than ``submit_timeout``.
        """
        with self._changed:
            if self._calls >= MAX_UNSENT_CALLS or self._bytes >= MAX_UNSENT_BYTES:
                self._wait_for_room()
            if self._closed:
                raise RuntimeError("cannot schedule new futures after shutdown")
            calls = self._unsent.get(function)
            if calls is None:
                calls = self._unsent[function] = deque()
            calls.append(call)
            self._calls += 1
            self._bytes += len(call.payload)
            if self._idle or self._calls == self._route.batch_size:
                self._wake()

    def enqueue_job(self, job: Callable[[], object]) -> None:
        """Run a request in the sending thread when no calls are waiting. Its failure is only logged."""
        with self._changed:
            self._jobs.append(job)
            self._wake()

    def start(self) -> None:
        """Start the thread, unless it was started before."""
        with self._changed:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="umbel-send", daemon=True)
                self._thread.start()

    def close(self) -> None:
        """Accept no more calls. Queued calls are still sent."""
        with self._changed:
            self._closed = True
            self._wake()
            if self._thread is None:
                self._ended()

    def join(self, timeout: float = 10.0) -> None:
        """Wait for the thread, which must have nothing left to do, unless this is a callback in it."""
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(timeout)

    def discard_unsent(self) -> list[UmbelFuture]:
        """Discard unsent calls and return their futures; a submission that failed is not repeated."""
        with self._changed:
            futures = [call.future for calls in self._unsent.values() for call in calls]
            self._unsent.clear()
            self._calls = self._bytes = 0
            self._wake()
        self._given_up.set()
        return futures

    def flush(self, timeout: float | None = None) -> bool:
        """Wait until everything queued is sent and answered; False after ``timeout`` seconds."""
        with self._changed:
            return self._changed.wait_for(
                lambda: not self._calls and not self._jobs and not self._busy, timeout
            )

    def _wake(self) -> None:
        self._idle = False
        self._changed.notify_all()

    def _wait_for_room(self) -> None:
        def room() -> bool:
            return self._closed or (self._calls < MAX_UNSENT_CALLS and self._bytes < MAX_UNSENT_BYTES)

        if not self._changed.wait_for(room, self._route.submit_timeout):
            raise TooMany(
                f"{self._calls} calls are waiting to be submitted, and the service accepted none of them for "
                f"{self._route.submit_timeout} s: it is unreachable or its queue is full"
            )

    def _run(self) -> None:
        while self._wait_for_work():
            self._do_work()
            with self._changed:
                self._busy = False
                self._changed.notify_all()
        self._ended()

    def _do_work(self) -> None:
        # a separate frame, so that an idle thread does not keep a future and its result alive
        taken = self._take()
        if taken is not None:
            self._send(*taken)
        else:
            self._do_job()

    def _wait_for_work(self) -> bool:
        """Wait for calls or jobs; False when all are done and no more can come."""
        with self._changed:
            while not self._calls and not self._jobs:
                if self._closed:
                    return False
                self._idle = True
                self._most = FIRST_CALLS
                self._changed.wait()
            self._idle = False
            interval, full = self._route.batch_interval, self._route.batch_size
            if self._calls and interval > 0:
                self._changed.wait_for(lambda: self._closed or self._calls >= full, interval)
            self._busy = True
            return True

    def _take(self) -> tuple[FunctionBody, list[Call]] | None:
        """Return the calls of one function that go into the next submission."""
        with self._changed:
            if not self._unsent:
                return None
            function, queue = next(iter(self._unsent.items()))
            calls: list[Call] = []
            size = 0
            most = min(self._most, self._route.batch_size)
            self._most *= GROWTH
            while queue and len(calls) < most:
                size += len(queue[0].payload) + CALL_OVERHEAD
                if calls and size > SUBMISSION_BYTES:
                    break
                calls.append(queue.popleft())
            # functions take turns
            del self._unsent[function]
            if queue:
                self._unsent[function] = queue
            self._calls -= len(calls)
            self._bytes -= sum(len(call.payload) for call in calls)
            self._changed.notify_all()
            return function, calls

    def _send(self, function: FunctionBody, calls: list[Call]) -> None:
        calls = [call for call in calls if not call.future.cancelled()]
        if not calls:
            return
        futures = [call.future for call in calls]
        self._pending.begin(futures)
        try:
            task_ids = self._submit(function, [call.payload for call in calls])
        # Whatever failed, the futures of these calls must fail, and the next calls must be sent.
        except BaseException as error:
            if not isinstance(error, UmbelError):
                logger.exception("unexpected error in a submission of group %s", self._route.group_id)
            self._pending.reject(error)
            return
        for task_id in self._pending.accept(task_ids, futures):
            self.enqueue_job(lambda task_id=task_id: self._client.cancel_task(task_id))  # type: ignore[misc]

    def _submit(self, function: FunctionBody, payloads: list[bytes]) -> list[str]:
        """Send one submission; repeat it while the service's queue is full."""
        route = self._route
        deadline = None if route.submit_timeout is None else time.monotonic() + route.submit_timeout
        registered_again = False
        while True:
            function_id = self._client.function_id(function)
            try:
                answer = self._client.submit(
                    function_id,
                    route.endpoint,
                    payloads,
                    group_id=route.group_id,
                    options=route.options,
                    given_up=self._given_up,
                )
                return list(answer["task_ids"])
            except TooMany:
                if deadline is not None and time.monotonic() > deadline:
                    raise
            except NotFound as error:
                # deleted since this client registered it
                if error.code != "FUNCTION_NOT_FOUND" or registered_again:
                    raise
                registered_again = True
                self._client.forget_function(function_id)

    def _do_job(self) -> None:
        with self._changed:
            job = self._jobs.popleft() if self._jobs else None
        try:
            if job is not None:
                job()
        except UmbelError as error:
            logger.warning(
                "group %s: a cancellation did not reach the service: %s", self._route.group_id, error
            )
