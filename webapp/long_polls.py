"""Long polls: requests that wait for new results of a group, or new output or items of a task.

A waiting poll occupies no thread of the embedded web server: its view raises ``Parked``, and the request is
run again when there is news or its time is over (see ``parking``). Under another web server it occupies a
thread. The number of waiting polls is limited, in total and for each user; further ones are rejected with
TOO_MANY_REQUESTS.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from federation.broker.notifications import Notifier, Subscription
from federation.context import Federation
from federation.ledger import logs, results, streams
from federation.registry.users import User
from umbel.protocol.errors import TooMany

#: Key of the environment of a request under which a web server that parks requests passes a ``Wait``.
WAIT_KEY = "umbel.wait"
#: Seconds between two checks whether the client of a poll that waits in a thread is still connected.
CLIENT_CHECK_INTERVAL = 5.0
#: Seconds after which a rejected poll may be repeated.
RETRY_AFTER = 1.0
#: Most polls that wait on a thread before they are parked, and for how long, seconds: a result that arrives
#: within this time is sent without running the request again.
QUICK_POLLS, QUICK_WAIT = 4, 0.05


class Parked(BaseException):
    """Ends the run of a request that has to wait, and releases its thread."""


class Wait:
    """What a waiting request keeps while it has no thread: deadline, subscription and place."""

    def __init__(self) -> None:
        self.deadline: float | None = None
        self.subscription: Subscription | None = None
        self.place: Callable[[], None] | None = None

    def close(self) -> None:
        """Release place and subscription."""
        subscription, self.subscription = self.subscription, None
        place, self.place = self.place, None
        if subscription is not None:
            subscription.close()
        if place is not None:
            place()


class Places:
    """Places for waiting polls. A user gets another one only while more are free than that user has.

    So one user never takes more than half of them, and every other user finds a free one.
    """

    def __init__(self, total: int):
        self.total = total
        self._lock = threading.Lock()
        self._taken: Counter[int] = Counter()

    @property
    def taken(self) -> int:
        """Number of places that are taken."""
        return self._taken.total()

    def take(self, user: User) -> Callable[[], None]:
        """Take a place; return what releases it. Raises TooMany."""
        with self._lock:
            if self._taken[user.no] >= self.total - self._taken.total():
                raise TooMany(
                    f"too many waiting polls (yours: {self._taken[user.no]}, of all users: "
                    f"{self._taken.total()} of {self.total}): try again in {RETRY_AFTER:g} s",
                    details={"retry_after": RETRY_AFTER},
                )
            self._taken[user.no] += 1
        return lambda: self._release(user)

    def _release(self, user: User) -> None:
        with self._lock:
            self._taken[user.no] -= 1
            if not self._taken[user.no]:
                del self._taken[user.no]


class LongPolls:
    """The long polls of one process.

    ``slots``: most polls that wait in threads at the same time; ``places``: most parked polls.
    """

    def __init__(self, fed: Federation, notifier: Notifier, slots: int, places: int = 1000):
        self._fed = fed
        self._notifier = notifier
        self._threads = Places(slots)
        self._quick = threading.Semaphore(QUICK_POLLS)
        self.parked = Places(places)
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
        parking: Wait | None = None,
    ) -> dict[str, Any]:
        """Return results of a group with completion numbers above ``after``; see ``results.results_after``.

        Waits up to ``wait`` seconds for the first one. Returns early if the notifier stops or ``gone()``
        reports that the client has disconnected. Raises NotFound; TooMany if it would have to wait without a
        free place; Parked instead of waiting if ``parking`` keeps the state of the request.
        """
        return self._poll(
            user,
            [group_id],
            lambda: results.results_after(self._fed, user, group_id, after, limit, epoch),
            # if the epoch has changed, the client must learn of it even without results
            lambda page: bool(page["results"]) or page["epoch"] != (epoch or page["epoch"]),
            wait,
            gone,
            parking,
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
        parking: Wait | None = None,
    ) -> dict[str, Any]:
        """Return the output of a task, see ``logs.log_from``; waits and raises like ``results``."""
        # the group is notified when the task ends, even without output
        topics = [task_id, logs.group_of(self._fed, user, task_id)] if wait > 0 else []

        def fetch() -> dict[str, Any]:
            return logs.log_from(self._fed, user, task_id, offset, attempt)

        def has_news(page: dict[str, Any]) -> bool:
            return bool(page["text"] or page["ended"] or (attempt is not None and page["attempt"] != attempt))

        return self._poll(user, topics, fetch, has_news, wait, gone, parking)

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
        parking: Wait | None = None,
    ) -> dict[str, Any]:
        """Return the items of a task, see ``streams.items_after``; waits and raises like ``results``."""
        topics = [task_id, logs.group_of(self._fed, user, task_id)] if wait > 0 else []

        def fetch() -> dict[str, Any]:
            return streams.items_after(self._fed, user, task_id, after, run, limit, time.time())

        def has_news(page: dict[str, Any]) -> bool:
            return bool(page["items"] or page["ended"] or (run is not None and page["run"] != run))

        return self._poll(user, topics, fetch, has_news, wait, gone, parking)

    def _poll(
        self,
        user: User,
        topics: Sequence[str],
        fetch: Callable[[], dict[str, Any]],
        has_news: Callable[[dict[str, Any]], bool],
        wait: float,
        gone: Callable[[], bool],
        parking: Wait | None,
    ) -> dict[str, Any]:
        """Return the page from ``fetch`` as soon as it ``has_news``, or at the deadline."""
        state = Wait() if parking is None else parking
        parked = False
        try:
            if state.deadline is None or state.subscription is None:
                state.deadline = time.monotonic() + wait
                state.subscription = self._notifier.subscribe(*topics)
            # forget changes before fetching, so that nothing in between is missed
            state.subscription.clear()
            page = fetch()
            if wait <= 0 or has_news(page):
                return page
            if state.place is None:
                state.place = (self._threads if parking is None else self.parked).take(user)
                page = self._wait_quickly(state.subscription, fetch, page) if parking is not None else page
            if parking is None:
                return self._wait_in_thread(state, fetch, has_news, page, gone)
            parked = not (has_news(page) or self._notifier.stopped or time.monotonic() >= state.deadline)
            if parked:
                raise Parked
            return page
        finally:
            if not parked:
                state.close()

    def _wait_quickly(
        self, subscription: Subscription, fetch: Callable[[], dict[str, Any]], page: dict[str, Any]
    ) -> dict[str, Any]:
        """Wait a moment on the thread, if few polls do, and fetch again if there was a change."""
        if not self._quick.acquire(blocking=False):
            return page
        try:
            changed = subscription.wait(QUICK_WAIT)
        finally:
            self._quick.release()
        if not changed:
            return page
        subscription.clear()
        return fetch()

    def _wait_in_thread(
        self,
        state: Wait,
        fetch: Callable[[], dict[str, Any]],
        has_news: Callable[[dict[str, Any]], bool],
        page: dict[str, Any],
        gone: Callable[[], bool],
    ) -> dict[str, Any]:
        assert state.deadline is not None and state.subscription is not None
        while not has_news(page) and (left := state.deadline - time.monotonic()) > 0:
            if self._notifier.stopped or gone():
                break
            if state.subscription.wait(min(left, CLIENT_CHECK_INTERVAL)):
                state.subscription.clear()
                page = fetch()
        return page
