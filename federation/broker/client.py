"""The broker under the federation: Celery queues out, reports in, wake-ups across.

Redis carries, it does not keep: everything in it can be lost and comes back from the ledger.
"""

from __future__ import annotations

import json
import logging
import time
from base64 import b64encode
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import redis
from kombu import Connection
from kombu.pidbox import Mailbox

from umbel.protocol import names
from umbel.protocol.limits import BUNDLE_LIFETIME, INLINE_BODY_BYTES
from umbel.system.redis import connection_options

from .celery_message import bundle_message

log = logging.getLogger(__name__)

#: Longest time that a command may take, seconds.
COMMAND_TIMEOUT = 15.0
#: Bytes of reports taken at once.
TAKE_BYTES = 16 * 1024 * 1024
#: A function's body at the broker is looked after again at most this often.
FUNCTION_CHECK = 60.0

#: What can go wrong with a broker that is down or refuses.
BrokerError = (redis.RedisError, OSError)


class Outgoing(NamedTuple):
    """A sealed bundle on its way out."""

    endpoint_id: str
    bundle_id: str
    head: bytes
    body: bytes
    function_name: str
    function_sha256: str
    function_body: bytes
    calls: int


class Broker:
    """One process's connections to the broker; safe to share between threads.

    Every method may raise one of ``BrokerError``.
    """

    def __init__(self, url: str):
        self.url = url
        self.redis: Any = redis.Redis.from_url(
            url, max_connections=256, **connection_options(COMMAND_TIMEOUT)
        )
        self._functions: dict[tuple[str, str], float] = {}

    @property
    def address(self) -> str:
        """``host:port`` that the service itself uses."""
        parts = urlsplit(self.url)
        return f"{parts.hostname}:{parts.port or 6379}"

    def send(self, outgoing: Sequence[Outgoing]) -> None:
        """Put bundles into their endpoints' queues, functions and bodies before them, in one round trip."""
        now = time.monotonic()
        pipe = self.redis.pipeline(transaction=False)
        for item in outgoing:
            known = (item.endpoint_id, item.function_sha256)
            if self._functions.get(known, 0.0) < now - FUNCTION_CHECK:
                pipe.set(names.function_key(*known), item.function_body, ex=int(BUNDLE_LIFETIME))
            body = None
            if len(item.body) <= INLINE_BODY_BYTES:
                body = b64encode(item.body).decode()
            else:
                pipe.set(names.body_key(item.endpoint_id, item.bundle_id), item.body, ex=int(BUNDLE_LIFETIME))
            head = b64encode(item.head).decode()
            message = bundle_message(
                item.endpoint_id, item.bundle_id, head, body, item.function_name, item.calls
            )
            pipe.lpush(names.queue_key(item.endpoint_id), message)
        pipe.execute()
        for item in outgoing:
            known = (item.endpoint_id, item.function_sha256)
            if self._functions.get(known, 0.0) < now - FUNCTION_CHECK:
                self._functions[known] = now
        if len(self._functions) > 10_000:
            self._functions.clear()

    def forget_functions(self) -> None:
        """Place functions again with the next bundles: the broker may have lost them."""
        self._functions.clear()

    def queued(self, endpoint_id: str) -> set[str]:
        """Ids of the bundles that lie in an endpoint's queue."""
        found: set[str] = set()
        start = 0
        while messages := self.redis.lrange(names.queue_key(endpoint_id), start, start + 99):
            found.update(json.loads(message)["headers"]["id"] for message in messages)
            start += len(messages)
        return found

    def take(self, collector: str, timeout: float) -> list[bytes]:
        """Wait up to ``timeout`` seconds for reports; return some, moved to the collector's own list.

        They stay there until ``taken_done``; ``recover`` gives back those of collectors that died.
        """
        mine = f"{names.REPORTS_KEY}:{collector}"
        pipe = self.redis.pipeline(transaction=False)
        pipe.blmove(names.REPORTS_KEY, mine, timeout, "RIGHT", "LEFT")
        pipe.llen(names.REPORTS_KEY)
        first, waiting = pipe.execute()
        if first is None:
            return []
        reports, size = [first], len(first)
        waiting = min(waiting, 64)
        while waiting and size < TAKE_BYTES:
            pipe = self.redis.pipeline(transaction=False)
            for _ in range(min(waiting, 16)):
                pipe.lmove(names.REPORTS_KEY, mine, "RIGHT", "LEFT")
            more = [report for report in pipe.execute() if report is not None]
            reports += more
            size += sum(map(len, more))
            waiting = waiting - 16 if waiting > 16 and more else 0
        return reports

    def taken_done(self, collector: str, wake: Iterable[str] = ()) -> None:
        """The taken reports are in the ledger: forget them, and wake those who wait for ``wake`` (ids)."""
        pipe = self.redis.pipeline(transaction=False)
        groups = ",".join(wake)
        if groups:
            pipe.publish(names.WAKE_CHANNEL, groups)
        pipe.delete(f"{names.REPORTS_KEY}:{collector}")
        pipe.execute()

    def wake(self, groups: Iterable[str]) -> None:
        """Tell all web servers that groups have news."""
        text = ",".join(groups)
        if text:
            self.redis.publish(names.WAKE_CHANNEL, text)

    def recover(self, collector: str) -> int:
        """Give back the reports that ``collector`` took and did not finish; return how many."""
        mine = f"{names.REPORTS_KEY}:{collector}"
        count = 0
        while self.redis.lmove(mine, names.REPORTS_KEY, "LEFT", "RIGHT") is not None:
            count += 1
        return count

    def cancel(self, endpoint_id: str, task_ids: Sequence[str]) -> None:
        """Tell an endpoint's workers that calls are not wanted any more, now and after their restart."""
        now = time.time()
        key = names.cancelled_key(endpoint_id)
        pipe = self.redis.pipeline(transaction=False)
        pipe.zadd(key, {task_id: now for task_id in task_ids})
        pipe.zremrangebyscore(key, 0, now - BUNDLE_LIFETIME)
        pipe.expire(key, int(BUNDLE_LIFETIME))
        pipe.execute()
        self.control(endpoint_id, names.CANCEL_COMMAND, {"task_ids": list(task_ids)})

    def control(
        self,
        endpoint_id: str,
        command: str,
        arguments: dict[str, Any],
        workers: Sequence[str] | None = None,
    ) -> None:
        """Send a Celery remote-control command to workers of an endpoint (host names; None: all)."""
        with mailbox(self.url, endpoint_id) as box:
            box.cast(None if workers is None else list(workers), command, arguments)

    def drop_endpoint(self, endpoint_id: str) -> None:
        """Delete everything that belongs to an endpoint."""
        for key in self.redis.scan_iter(match=names.prefix(endpoint_id) + "*", count=1000):
            self.redis.delete(key)

    def close(self) -> None:
        """Close all connections."""
        self.redis.close()


# the queue of replies ends with its connection, so that it needs no script at the broker that ends it
_MAILBOX = Mailbox("celery", type="fanout", serializer="json", accept=["json"], reply_queue_expires=None)


@contextmanager
def mailbox(url: str, endpoint_id: str) -> Iterator[Mailbox]:
    """Celery's remote control of the workers of one endpoint, over the broker ``url``.

    Not through Celery's app: its mailbox publishes on connections of its own, without the prefix.
    """
    options = {
        **connection_options(COMMAND_TIMEOUT),
        "priority_steps": [0],
        # with it kombu would look after the endpoint's own messages while it waits for replies
        "ack_emulation": False,
        "global_keyprefix": names.prefix(endpoint_id),
    }
    with Connection(url, transport_options=options) as connection:
        yield _MAILBOX(connection)
