"""The receiving thread: long polls of one group, whose results resolve futures."""

from __future__ import annotations

import logging
import threading

from ..api.client import Client
from ..api.transport import TransportClosed
from ..protocol.errors import NotFound, ServiceUnavailable, TooMany, UmbelError
from .pending import Pending

logger = logging.getLogger(__name__)

#: How long one poll may wait for a result (seconds).
WAIT = 20.0
#: Pause after the service had no place for a poll, if it names none (seconds).
BUSY_PAUSE = 1.0


class Follower:
    """Polls one group from its own thread while futures wait for accepted tasks.

    It reads from a cursor, so a lost connection loses no result, and it does not poll at intervals: the
    service answers each poll when there is a result. Between the calls of a sequence there is no poll: it
    would delay the submission of the next call, and starts early enough while that call runs.

    The cursor counts in one epoch of the service's database. When the database is restored to an earlier
    state, the epoch changes: results are then read from the first one, and futures of tasks that the service
    no longer has fail.
    """

    def __init__(self, client: Client, pending: Pending, group_id: str):
        self._transport = client.transport.clone()
        self._client = Client(transport=self._transport)
        self._pending = pending
        self._group_id = group_id
        self._cursor = 0
        self._epoch: str | None = None
        self._closed = False
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start the thread, unless it was started before."""
        with self._pending.changed:
            if self._thread is None and not self._closed:
                self._thread = threading.Thread(target=self._run, name="umbel-follow", daemon=True)
                self._thread.start()

    def close(self, timeout: float = 10.0) -> None:
        """Stop at once, also during a poll, and wait for the thread unless this is a callback in it."""
        with self._pending.changed:
            self._closed = True
            self._pending.changed.notify_all()
        self._transport.close()
        if self._thread is not None and not self.is_current_thread:
            self._thread.join(timeout)

    @property
    def is_current_thread(self) -> bool:
        """True in the receiving thread itself, where callbacks run."""
        return self._thread is threading.current_thread()

    def _run(self) -> None:
        while self._wait_for_tasks():
            try:
                self._poll()
            except TransportClosed:
                return
            except TooMany as error:  # of waiting polls: the tasks go on, whatever the client's patience
                self._pause(error)
            except UmbelError as error:
                self._give_up(error)
            except BaseException as error:  # a defect here must not leave futures unresolved
                logger.exception("unexpected error while results of group %s were received", self._group_id)
                self._give_up(error)
        self._transport.close()

    def _poll(self) -> None:
        """Wait for results and resolve their futures."""
        answer = self._client.group_results(self._group_id, self._cursor, WAIT, epoch=self._epoch)
        self._pending.deliver(answer["results"])
        self._cursor = answer["cursor"]
        epoch = answer.get("epoch")
        if self._epoch is not None and epoch != self._epoch:
            logger.warning(
                "group %s: the service's database was restored to an earlier state; its results are read "
                "again from the first one",
                self._group_id,
            )
            self._fail_lost()
        self._epoch = epoch  # last: what failed before is done again after the next poll

    def _fail_lost(self) -> None:
        """Fail the futures of tasks that the service no longer has."""
        waiting = self._pending.waiting()  # before the request: tasks accepted since are there
        found = {str(task["id"]) for task in self._client.tasks(group_id=self._group_id)}
        for future in waiting:
            if future.task_id not in found:
                self._pending.forget([future])
                future.fail(
                    NotFound(
                        f"the service no longer has task {future.task_id}: its database was restored to an "
                        "earlier state. Submit the call again",
                        code="TASK_NOT_FOUND",
                    )
                )

    def _pause(self, error: TooMany) -> None:
        seconds = error.details.get("retry_after")
        pause = seconds if isinstance(seconds, (int, float)) and seconds > 0 else BUSY_PAUSE
        logger.info("group %s: %s; polling again in %g s", self._group_id, error, pause)
        with self._pending.changed:
            self._pending.changed.wait_for(lambda: self._closed or self._pending.done, pause)

    def _wait_for_tasks(self) -> bool:
        """Wait until a future waits for an accepted task; False when the thread must stop."""
        pending = self._pending
        with pending.changed:
            pending.changed.wait_for(lambda: self._closed or pending.done or pending.accepted)
            return not self._closed and not pending.done

    def _give_up(self, error: BaseException) -> None:
        """Fail all waiting futures: no more results will arrive."""
        if isinstance(error, ServiceUnavailable):
            error.message += f"; Executor.reload('{self._group_id}') waits for the results again"
        elif isinstance(error, NotFound):
            error.message += f": the service no longer has group {self._group_id}"
            self._cursor, self._epoch = 0, None
        logger.warning("group %s: waiting futures fail: %s", self._group_id, error)
        self._pending.fail_all(error)
