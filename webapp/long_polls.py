"""Long polls: requests that wait for new results of a group, or new output or items of a task.

Each waiting poll occupies a thread of the web server. Their number is limited, so that threads remain for
other requests; further polls are rejected with TOO_MANY_REQUESTS.
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

#: Seconds between two checks whether the client of a waiting poll is still connected.
CLIENT_CHECK_INTERVAL = 5.0
#: Seconds after which a rejected poll may be repeated.
RETRY_AFTER = 1.0


class LongPolls:
    """The long polls of one process. ``slots``: most polls that wait at the same time."""

    def __init__(self, fed: Federation, notifier: Notifier, slots: int):
        self._fed = fed
        self._notifier = notifier
        self._free = threading.Semaphore(slots)
        self.slots = slots

    def results(
        self,
        user: User,
        group_id: str,
        *,
        after: int,
        wait: float,
        limit: int,
        epoch: str | None = None,
        gone: Callable[[], bool] = lambda: False,
    ) -> dict[str, Any]:
        """Return results of a group with completion numbers above ``after``; see ``results.results_after``.

        Waits up to ``wait`` seconds for the first one. Returns early if the notifier stops or ``gone()``
        reports that the client has disconnected. Raises NotFound; TooMany if it would have to wait without a
        free slot.
        """
        return self._poll(
            [group_id],
            lambda: results.results_after(self._fed, user, group_id, after, limit, epoch),
            # if the epoch has changed, the client must learn of it even without results
            lambda page: bool(page["results"]) or page["epoch"] != (epoch or page["epoch"]),
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
        """Return the output of a task, see ``logs.log_from``; waits and raises like ``results``."""
        # the group is notified when the task ends, even without output
        topics = [task_id, logs.group_of(self._fed, user, task_id)] if wait > 0 else []

        def fetch() -> dict[str, Any]:
            return logs.log_from(self._fed, user, task_id, offset, attempt)

        def has_news(page: dict[str, Any]) -> bool:
            return bool(page["text"] or page["ended"] or (attempt is not None and page["attempt"] != attempt))

        return self._poll(topics, fetch, has_news, wait, gone)

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
        """Return the items of a task, see ``streams.items_after``; waits and raises like ``results``."""
        topics = [task_id, logs.group_of(self._fed, user, task_id)] if wait > 0 else []

        def fetch() -> dict[str, Any]:
            return streams.items_after(self._fed, user, task_id, after, run, limit, time.time())

        def has_news(page: dict[str, Any]) -> bool:
            return bool(page["items"] or page["ended"] or (run is not None and page["run"] != run))

        return self._poll(topics, fetch, has_news, wait, gone)

    def _poll(
        self,
        topics: Sequence[str],
        fetch: Callable[[], dict[str, Any]],
        has_news: Callable[[dict[str, Any]], bool],
        wait: float,
        gone: Callable[[], bool],
    ) -> dict[str, Any]:
        """Return the page from ``fetch`` as soon as it ``has_news``, or at the deadline."""
        deadline = time.monotonic() + wait
        # subscribe before fetching, so that nothing in between is missed
        with self._notifier.subscribe(*topics) as subscription:
            page = fetch()
            if has_news(page) or wait <= 0:
                return page
            if not self._free.acquire(blocking=False):
                raise TooMany(
                    f"too many waiting polls ({self.slots}): try again in {RETRY_AFTER:g} s",
                    details={"retry_after": RETRY_AFTER},
                )
            try:
                while not has_news(page) and self._wait(subscription, deadline, gone):
                    page = fetch()
                return page
            finally:
                self._free.release()

    def _wait(self, subscription: Subscription, deadline: float, gone: Callable[[], bool]) -> bool:
        """Wait for news; return False if there was none before the poll must be answered."""
        while (left := deadline - time.monotonic()) > 0:
            if self._notifier.stopped or gone():
                return False
            if subscription.wait(min(left, CLIENT_CHECK_INTERVAL)):
                return True
        return False
