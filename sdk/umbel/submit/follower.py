"""The receiving thread: long polls of one group, from results to futures."""

from __future__ import annotations

import logging
import threading

from ..api.client import Client
from ..api.transport import TransportClosed
from ..protocol.errors import NotFound, ServiceUnavailable, UmbelError
from .pending import Pending

logger = logging.getLogger(__name__)

#: How long one poll may wait for news (seconds).
WAIT = 20.0


class Follower:
    """Follows one group from a thread of its own for as long as somebody waits for an accepted task.

    It reads from its cursor, so a lost connection loses nothing, and it never asks at intervals: each poll is
    answered when there is news. Between the calls of a sequence there is no poll: it would meet the next
    call's submission at the service and delay it, and comes early enough while the call runs.
    """

    def __init__(self, client: Client, pending: Pending, group_id: str):
        self._transport = client.transport.clone()
        self._client = Client(transport=self._transport)
        self._pending = pending
        self._group_id = group_id
        self._cursor = 0
        self._closed = False
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start following, once."""
        with self._pending.changed:
            if self._thread is None and not self._closed:
                self._thread = threading.Thread(target=self._run, name="umbel-follow", daemon=True)
                self._thread.start()

    def close(self, timeout: float = 10.0) -> None:
        """End at once, also in the middle of a poll; called from a callback, it does not wait for itself."""
        with self._pending.changed:
            self._closed = True
            self._pending.changed.notify_all()
        self._transport.close()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(timeout)

    @property
    def here(self) -> bool:
        """True in the following thread itself, where callbacks run."""
        return self._thread is threading.current_thread()

    def _run(self) -> None:
        while self._wait_for_interest():
            try:
                answer = self._client.group_results(self._group_id, self._cursor, WAIT)
                self._pending.deliver(answer["results"])
                self._cursor = answer["cursor"]
            except TransportClosed:
                return
            except UmbelError as error:
                self._give_up(error)
            except BaseException as error:  # a defect here must not leave futures hanging
                logger.exception("following group %s failed", self._group_id)
                self._give_up(error)
        self._transport.close()

    def _wait_for_interest(self) -> bool:
        """Wait until a task is accepted whose result somebody waits for; False when it is time to end."""
        pending = self._pending
        with pending.changed:
            pending.changed.wait_for(lambda: self._closed or pending.done or pending.accepted)
            return not self._closed and not pending.done

    def _give_up(self, error: BaseException) -> None:
        """Nothing more will be heard: end what waits, so that it does not wait for ever."""
        if isinstance(error, ServiceUnavailable):
            error.message += f"; group {self._group_id} can be taken up again with Executor.reload"
        elif isinstance(error, NotFound):
            error.message += f": the service does not know group {self._group_id} any more"
            self._cursor = 0
        logger.warning("giving up group %s: %s", self._group_id, error)
        self._pending.fail_all(error)
