"""The sending thread: single calls in, a few large submissions out.

A lone call is sent at once. Calls that arrive while a submission is in progress go together in the next one,
so the number of calls per request adapts to the speed of the service. The first submissions of a burst are
small, so that the endpoint has work while the service stores the large ones (as TCP's slow start, RFC 5681).
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from ..api.client import Client
from ..api.options import Options
from ..futures import UmbelFuture
from ..protocol.errors import TooMany, UmbelError
from ..serialization.codec import FunctionBody
from ..system.threads import GuardedThread
from .calls import MAX_FUNCTIONS, Batch, Call, CallQueue, Route
from .canceller import Canceller
from .pending import Pending, copy_of
from .submitter import Submitter, may_concern_one_function

logger = logging.getLogger(__name__)

#: ``submit`` blocks while more than this is unsent (calls; bytes of arguments).
MAX_UNSENT_CALLS = 20_000
MAX_UNSENT_BYTES = 64 * 1024 * 1024
#: Most calls and functions of the first submission of a burst, and how much larger each of the next may be.
FIRST_CALLS, FIRST_FUNCTIONS, GROWTH = 64, 4, 8


class Sender:
    """Collects calls and submits them from its own thread.

    ``ended`` is called when everything is sent and no more calls can come. ``on_reject`` receives each batch
    that the service did not accept, before its futures fail.
    """

    def __init__(
        self,
        client: Client,
        pending: Pending,
        route: Route,
        canceller: Canceller,
        *,
        ended: Callable[[], None],
        on_reject: Callable[[Batch, BaseException], None],
    ):
        self._submitter = Submitter(client, route)
        self._pending = pending
        self._route = route
        self._canceller = canceller
        self._ended = ended
        self._on_reject = on_reject
        self._reset()
        self._most, self._functions = FIRST_CALLS, FIRST_FUNCTIONS
        self._answered = False
        self._idle = False
        self._closed = False
        self._failure: BaseException | None = None
        #: Number of calls that were ever queued.
        self.total = 0

    def _reset(self) -> None:
        self._changed = threading.Condition(threading.Lock())
        self._queue = CallQueue()
        self._current: Batch | None = None
        self._given_up = threading.Event()
        self._thread: GuardedThread | None = None

    def take_in_child(self) -> list[UmbelFuture]:
        """In a forked child: forget all calls and return their futures; the parent sends them."""
        batches = [*self._queue.take_all(), *([] if self._current is None else [self._current])]
        self._reset()
        return [future for batch in batches for future in batch.futures]

    @property
    def is_current_thread(self) -> bool:
        """True in the sending thread itself, where callbacks of rejected calls run."""
        return self._thread is threading.current_thread()

    def put(self, function: FunctionBody, call: Call, options: Options) -> None:
        """Queue a call; waits while too much is unsent.

        Raises RuntimeError after ``close``, TooMany when it had to wait longer than ``submit_timeout``.
        """
        with self._changed:
            queue = self._queue
            if queue.count >= MAX_UNSENT_CALLS or queue.size >= MAX_UNSENT_BYTES:
                self._wait_for_room()
            if self._closed:
                raise RuntimeError("cannot schedule new futures after shutdown")
            queue.put(function, options, call)
            self.total += 1
            if self._idle or queue.count == self._route.batch_size:
                self._wake()

    def start(self) -> None:
        """Start the thread, unless it was started before."""
        with self._changed:
            if self._thread is None:
                self._thread = GuardedThread(self._run, name="umbel-send")
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
        if self._thread is not None and not self.is_current_thread:
            self._thread.join(timeout)

    def wait_for_answer(self, timeout: float) -> None:
        """Wait until the service has answered once, unless there are no calls."""
        with self._changed:
            if not self.is_current_thread:
                self._changed.wait_for(lambda: self._answered or not self.total, timeout)

    def discard_unsent(self) -> list[UmbelFuture]:
        """Discard unsent calls and return their futures; a submission that failed is not repeated."""
        with self._changed:
            batches = self._queue.take_all()
            self._wake()
        self._given_up.set()
        return [future for batch in batches for future in batch.futures]

    def take_unsent(self) -> list[Batch]:
        """Remove and return what the service has not accepted, the submission in progress included."""
        with self._changed:
            batches = self._queue.take_all()
            if self._current is not None:
                batches.insert(0, self._current)
            self._wake()
        self._given_up.set()
        return batches

    def flush(self, timeout: float | None = None) -> bool:
        """Wait until everything queued is sent and answered; False after ``timeout`` seconds."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._queue.count and self._current is None, timeout)

    def take_failure(self) -> BaseException | None:
        """Return the first error of a submission since the last call of this method."""
        with self._changed:
            error, self._failure = self._failure, None
            return None if error is None else copy_of(error)

    def _wake(self) -> None:
        self._idle = False
        self._changed.notify_all()

    def _wait_for_room(self) -> None:
        queue = self._queue

        def room() -> bool:
            return self._closed or (queue.count < MAX_UNSENT_CALLS and queue.size < MAX_UNSENT_BYTES)

        if self.is_current_thread:
            return  # a callback: waiting for itself would never end
        if not self._changed.wait_for(room, self._route.submit_timeout):
            raise TooMany(
                f"{queue.count} calls are waiting to be submitted, and the service accepted none of them for "
                f"{self._route.submit_timeout} s: it is unreachable or its queue is full"
            )

    def _run(self) -> None:
        while self._wait_for_work():
            self._do_work()
        self._ended()

    def _do_work(self) -> None:
        # a separate frame, so that an idle thread does not keep a future and its result alive
        try:
            batch = self._take()
            if batch is not None:
                self._send(batch)
        finally:
            with self._changed:
                self._current = None
                self._answered = True
                self._changed.notify_all()

    def _wait_for_work(self) -> bool:
        """Wait for calls; False when all are sent and no more can come."""
        with self._changed:
            while not self._queue.count:
                if self._closed:
                    return False
                self._idle = True
                self._most, self._functions = FIRST_CALLS, FIRST_FUNCTIONS
                self._changed.wait()
            interval, full = self._route.batch_interval, self._route.batch_size
            if interval > 0:
                self._changed.wait_for(lambda: self._closed or self._queue.count >= full, interval)
            return True

    def _take(self) -> Batch | None:
        """Remove the calls of the next submission from the queue; they are current until it is answered."""
        with self._changed:
            most, functions = self._route.batch_size, MAX_FUNCTIONS
            # a collected batch goes whole: its rest would wait for another interval
            if not self._route.batch_interval:
                most, functions = min(self._most, most), min(self._functions, functions)
                self._most *= GROWTH
                self._functions *= GROWTH
            batch = self._queue.take(most, functions)
            if batch is not None:
                batch.drop_abandoned()
            self._current = batch if batch is not None and batch.parts else None
            self._changed.notify_all()
            return self._current

    def _send(self, batch: Batch) -> None:
        futures = batch.futures
        self._pending.begin(futures)
        try:
            task_ids = self._submitter.submit(batch, self._given_up)
            cancelled = self._pending.accept(task_ids, futures)
            if cancelled:
                self._canceller.cancel(cancelled)
        # Whatever failed, the futures of these calls must fail, and the next calls must be sent.
        except BaseException as error:
            if self._separate(batch, error):
                return
            if not isinstance(error, UmbelError):
                logger.exception("unexpected error in a submission of group %s", self._route.group_id)
            self._failure = self._failure or error
            try:
                self._on_reject(batch, error)
            finally:
                self._pending.reject(error)

    def _separate(self, batch: Batch, error: BaseException) -> bool:
        """Queue each function of a rejected batch again, alone, if only one of them may be the reason."""
        if not may_concern_one_function(error) or len(batch.parts) < 2 or self._given_up.is_set():
            return False
        with self._changed:
            if self._current is not batch:
                return False  # taken by the exit of the interpreter
            self._pending.withdraw()
            self._queue.put_back(batch.split())
            self._current = None
            return True
