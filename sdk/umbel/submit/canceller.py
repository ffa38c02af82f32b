"""The cancelling thread: single cancellations in, a few requests out.

It has connections of its own and exists only while there is something to cancel, so a cancellation needs
neither the sending thread nor an open executor.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable

from ..api.client import Client
from ..protocol.errors import UmbelError
from ..protocol.limits import MAX_CALLS_PER_SUBMISSION
from ..system.threads import GuardedThread

logger = logging.getLogger(__name__)

#: How long ``flush`` waits for the end of a thread that has sent everything, seconds.
END_TIMEOUT = 1.0
#: A request, and what to do if it fails; called in the cancelling thread.
Job = tuple[Callable[[Client], object], Callable[[], object]]


#: Those that have something to cancel.
_busy: set[Canceller] = set()


class Canceller:
    """Cancels tasks of one group at the service. Thread-safe; no method but ``flush`` waits."""

    def __init__(self, client: Client, group_id: str):
        self._client = client
        self._group_id = group_id
        self.reset()

    def reset(self) -> None:
        """Forget everything; in a forked child, whose parent sends it, another thread may have the lock."""
        self._changed = threading.Condition()
        self._task_ids: list[str] = []
        self._jobs: list[Job] = []
        self._busy = False
        self._thread: GuardedThread | None = None
        self._latest: GuardedThread | None = None

    @property
    def is_current_thread(self) -> bool:
        """True in the cancelling thread itself, where callbacks may run."""
        return self._thread is threading.current_thread()

    def cancel(self, task_ids: Iterable[str]) -> None:
        """Cancel tasks, waiting or running."""
        with self._changed:
            self._task_ids.extend(task_ids)
            self._start()

    def cancel_unstarted(self, task_ids: list[str] | None, failed: Callable[[], object]) -> None:
        """Cancel tasks that have not started; None: of the whole group. ``failed`` runs if that fails."""
        with self._changed:
            self._jobs.append((lambda client: self._cancel_unstarted(client, task_ids), failed))
            self._start()

    def cancel_group(self) -> None:
        """Cancel all tasks of the group."""
        with self._changed:
            self._jobs.append((lambda client: client.cancel_group(self._group_id), lambda: None))
            self._start()

    def flush(self, timeout: float | None = None) -> bool:
        """Wait until everything is sent and answered; False after ``timeout`` seconds, or in the thread."""
        if self.is_current_thread:
            return False
        with self._changed:
            idle = self._changed.wait_for(lambda: self._is_idle, timeout)
            thread = self._latest
        if idle and thread is not None:
            thread.join(END_TIMEOUT)  # it closes its connections
        return idle

    @property
    def _is_idle(self) -> bool:
        return not self._task_ids and not self._jobs and not self._busy

    def _start(self) -> None:
        if self._thread is None and not self._is_idle:
            _busy.add(self)
            self._thread = self._latest = GuardedThread(self._run, name="umbel-cancel")
            try:
                self._thread.start()
            except RuntimeError as error:  # the interpreter exits
                self._thread = self._latest = None
                self._task_ids.clear()
                self._jobs.clear()
                logger.warning("group %s: tasks cannot be cancelled: %s", self._group_id, error)

    def _run(self) -> None:
        client = Client(transport=self._client.transport.clone())
        try:
            while (job := self._next()) is not None:
                self._do(client, job)
        finally:
            client.close()
            with self._changed:
                self._busy = False

    def _next(self) -> Job | None:
        with self._changed:
            self._busy = False
            if self._task_ids:
                task_ids = self._task_ids[:MAX_CALLS_PER_SUBMISSION]
                del self._task_ids[:MAX_CALLS_PER_SUBMISSION]
                self._busy = True
                return (lambda client: client.cancel_tasks(task_ids)), lambda: None
            if self._jobs:
                self._busy = True
                return self._jobs.pop(0)
            self._thread = None
            _busy.discard(self)
            self._changed.notify_all()
            return None

    def _do(self, client: Client, job: Job) -> None:
        request, failed = job
        try:
            request(client)
        # Whatever failed, the next cancellations must be sent.
        except BaseException as error:
            if not isinstance(error, UmbelError):
                logger.exception("unexpected error in a cancellation of group %s", self._group_id)
            elif getattr(error, "code", "") != "GROUP_NOT_FOUND":  # no task of the group was accepted
                logger.warning(
                    "group %s: a cancellation did not reach the service: %s", self._group_id, error
                )
            failed()

    def _cancel_unstarted(self, client: Client, task_ids: list[str] | None) -> None:
        if task_ids is None:
            client.cancel_group(self._group_id, started=False)
            return
        for begin in range(0, len(task_ids), MAX_CALLS_PER_SUBMISSION):
            client.cancel_tasks(task_ids[begin : begin + MAX_CALLS_PER_SUBMISSION], started=False)


def flush_all(timeout: float) -> None:
    """Wait until all cancellations of this process are sent, ``timeout`` seconds at most."""
    deadline = time.monotonic() + timeout
    for canceller in list(_busy):
        canceller.flush(max(0.0, deadline - time.monotonic()))


def forget_all() -> None:
    """Forget all cancellations in a forked child: its parent sends them."""
    _busy.clear()
