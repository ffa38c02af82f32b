"""Long polls: a request that waits until its group, or what its task writes or yields, has news.

Each waiting poll holds a thread of the web server, so only so many may wait that threads are left for
everything else; the next one is told to ask again.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from federation.broker.notifications import Notifier, Subscription
from federation.context import Federation
from federation.ledger import logs, results, streams
from federation.registry.users import User
from umbel.protocol.errors import TooMany

#: A waiting poll looks this often whether its client is still there, seconds.
LOOK_UP = 5.0
#: Seconds after which a poll that found no place may come again.
RETRY_AFTER = 1.0


class Polls:
    """The polls of one process. ``places``: how many may wait at once."""

    def __init__(self, fed: Federation, notifier: Notifier, places: int):
        self._fed = fed
        self._notifier = notifier
        self._free = threading.Semaphore(places)
        self.places = places

    def results(
        self,
        user: User,
        group_id: str,
        *,
        after: int,
        wait: float,
        limit: int,
        gone: Callable[[], bool] = lambda: False,
    ) -> dict[str, Any]:
        """Return results of a group with completion numbers above ``after``; see ``results.results_after``.

        Waits up to ``wait`` seconds for the first one, but no longer than until the notifier stops or
        ``gone()`` says that nobody listens any more. Raises NotFound, and TooMany when it should wait and all
        places are taken.
        """
        return self._poll(
            [group_id],
            lambda: results.results_after(self._fed, user, group_id, after, limit),
            lambda page: bool(page["results"]),
            wait,
            gone,
        )

    def log(
        self,
        user: User,
        task_id: str,
        *,
        offset: int,
        attempt: int | None,
        wait: float,
        gone: Callable[[], bool] = lambda: False,
    ) -> dict[str, Any]:
        """Return what a task wrote, see ``logs.log_from``; waits and raises as ``results`` does."""
        # the group hears when the task ends, whether or not it wrote anything
        topics = [task_id, logs.group_of(self._fed, user, task_id)] if wait > 0 else []

        def look() -> dict[str, Any]:
            return logs.log_from(self._fed, user, task_id, offset, attempt)

        def new(page: dict[str, Any]) -> bool:
            return bool(page["text"] or page["ended"] or (attempt is not None and page["attempt"] != attempt))

        return self._poll(topics, look, new, wait, gone)

    def items(
        self,
        user: User,
        task_id: str,
        *,
        after: int,
        run: int | None,
        wait: float,
        limit: int,
        gone: Callable[[], bool] = lambda: False,
    ) -> dict[str, Any]:
        """Return what a task yielded, see ``streams.items_after``; waits and raises as ``results`` does."""
        topics = [task_id, logs.group_of(self._fed, user, task_id)] if wait > 0 else []

        def look() -> dict[str, Any]:
            return streams.items_after(self._fed, user, task_id, after, run, limit, time.time())

        def new(page: dict[str, Any]) -> bool:
            return bool(page["items"] or page["ended"] or (run is not None and page["run"] != run))

        return self._poll(topics, look, new, wait, gone)

    def _poll(
        self,
        topics: Sequence[str],
        look: Callable[[], dict[str, Any]],
        new: Callable[[dict[str, Any]], bool],
        wait: float,
        gone: Callable[[], bool],
    ) -> dict[str, Any]:
        """Answer what ``look`` finds, as soon as it is ``new`` or it is time."""
        deadline = time.monotonic() + wait
        # watch before looking: what comes in between is not missed
        with self._notifier.subscribe(*topics) as subscription:
            page = look()
            if new(page) or wait <= 0:
                return page
            if not self._free.acquire(blocking=False):
                raise TooMany(
                    f"{self.places} polls are waiting already: ask again in a moment",
                    details={"retry_after": RETRY_AFTER},
                )
            try:
                while not new(page) and self._wait(subscription, deadline, gone):
                    page = look()
                return page
            finally:
                self._free.release()

    def _wait(self, subscription: Subscription, deadline: float, gone: Callable[[], bool]) -> bool:
        """Wait for news; False when there was none before it was time to answer."""
        while (left := deadline - time.monotonic()) > 0:
            if self._notifier.stopped or gone():
                return False
            if subscription.wait(min(left, LOOK_UP)):
                return True
        return False
