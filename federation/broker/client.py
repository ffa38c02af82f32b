"""The connection to the broker: Celery queues, reports, and notifications between server processes.

Redis is transport only. Everything in it may be lost and is restored from the ledger.
"""

from __future__ import annotations

import logging
import time
from base64 import b64encode
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import redis
from kombu import Connection
from kombu.pidbox import Mailbox
from redis.connection import HiredisRespSerializer

from umbel.protocol import names
from umbel.protocol.limits import BUNDLE_LIFETIME, INLINE_BODY_BYTES
from umbel.system.redis import Packer, connection_options

from .celery_message import bundle_id, bundle_message
from .dead_letters import DeadLetters
from .holdings import Holdings, Pushed
from .node_states import NodeStates
from .report_lists import ReportLists, is_wrong_type

log = logging.getLogger(__name__)

#: Timeout of one Redis command, seconds.
COMMAND_TIMEOUT = 15.0
#: Interval after which a function's body is written to the broker again, seconds.
FUNCTION_REFRESH = 60.0

#: Messages of a queue that are read at once and at most, largest message, and largest queue in bytes.
QUEUE_PAGE, QUEUE_LENGTH, MESSAGE_BYTES, QUEUE_BYTES = 100, 20_000, 1024 * 1024, 256 * 1024 * 1024

# KEYS: a queue. ARGV: first and last position, largest message, largest queue. Returns the messages, with ""
# for one that is too large, or nil if the queue was deleted.
_READ_QUEUE = """
if redis.replicate_commands then redis.replicate_commands() end
local used = redis.pcall('MEMORY', 'USAGE', KEYS[1], 'SAMPLES', '0')
local found = {}
if type(used) ~= 'number' or used <= tonumber(ARGV[4]) then
  found = redis.pcall('LRANGE', KEYS[1], ARGV[1], ARGV[2])
  if not found.err then
    for i, message in ipairs(found) do
      if #message > tonumber(ARGV[3]) then found[i] = '' end
    end
    return found
  end
end
redis.call('UNLINK', KEYS[1])
return nil
"""

#: Errors raised when the broker is down or rejects a command.
BrokerError = (redis.RedisError, OSError)


class ControlError(redis.RedisError):
    """A command cannot be sent to an endpoint because of what lies under the endpoint's keys."""


class Outgoing(NamedTuple):
    """A sealed bundle that is ready to send."""

    endpoint_id: str
    bundle_id: str
    head: bytes
    body: bytes
    function_name: str
    function_sha256: str
    function_body: bytes
    calls: int
    #: the epoch of its endpoint in which it was recorded
    epoch: int
    #: it goes to the head of the queue
    passes: bool = False


class Broker:
    """The broker connections of one process; safe to share between threads.

    Every method may raise one of the exceptions in ``BrokerError``.
    """

    def __init__(self, url: str):
        self.url = url
        self.redis: Any = redis.Redis.from_url(
            url,
            max_connections=256,
            command_packer=Packer(HiredisRespSerializer().pack),
            **connection_options(COMMAND_TIMEOUT),
        )
        self._read_queue = self.redis.register_script(_READ_QUEUE)
        self.report_lists = ReportLists(self)
        self.holdings = Holdings(self)
        self.node_states = NodeStates(self)
        self.dead_letters = DeadLetters(self)
        self._functions: dict[tuple[str, str], float] = {}

    @property
    def address(self) -> str:
        """``host:port`` through which the service reaches the broker."""
        parts = urlsplit(self.url)
        return f"{parts.hostname}:{parts.port or 6379}"

    def send(self, outgoing: Sequence[Outgoing]) -> None:
        """Write functions that may be missing, then push the bundles to the endpoints' queues."""
        self._write_functions(outgoing)
        pushed = self.holdings.push([_pushed(item) for item in outgoing]) if outgoing else []
        for item, answer in zip(outgoing, pushed):
            if answer != 1:
                # the sweeper sends their calls again
                why = "its endpoint's keys are new" if answer == 0 else "a key of its endpoint is invalid"
                log.warning("bundle %s was not sent: %s", item.bundle_id, why)

    def _write_functions(self, outgoing: Sequence[Outgoing]) -> None:
        """Write functions to the broker that were not written for a while."""
        now = time.monotonic()
        needed = {
            known: item.function_body
            for item in outgoing
            if self._functions.get(known := (item.endpoint_id, item.function_sha256), 0.0)
            < now - FUNCTION_REFRESH
        }
        if not needed:
            return
        pipe = self.redis.pipeline(transaction=False)
        for known, body in needed.items():
            pipe.set(names.function_key(*known), body, ex=int(BUNDLE_LIFETIME))
        pipe.execute()
        if len(self._functions) > 10_000:
            self._functions.clear()
        self._functions.update(dict.fromkeys(needed, now))

    def clear_function_cache(self) -> None:
        """Write function bodies again with the next bundles, because the broker may have lost them."""
        self._functions.clear()

    def queued(self, endpoint_id: str) -> set[str]:
        """Return the ids of the bundles in an endpoint's queue."""
        return set(self.queued_messages(endpoint_id))

    def queued_messages(self, endpoint_id: str) -> dict[str, bytes]:
        """Return the messages in an endpoint's queue by the ids of their bundles; anything else is skipped.

        A queue that is not a list, or is too large to be read, is deleted: its bundles are sent again.
        """
        key = names.queue_key(endpoint_id)
        found: dict[str, bytes] = {}
        for start in range(0, QUEUE_LENGTH, QUEUE_PAGE):
            limits = start, start + QUEUE_PAGE - 1, MESSAGE_BYTES, QUEUE_BYTES
            messages = self._read_queue([key], limits, client=self.redis)
            if messages is None:
                log.warning("endpoint %s: the queue was invalid and is deleted", endpoint_id)
                return {}
            found.update((id, message) for message in messages if (id := bundle_id(message)) is not None)
            if len(messages) < QUEUE_PAGE:
                break
        return found

    def notify(self, groups: Iterable[str]) -> None:
        """Notify all web servers that groups have changed."""
        topics = ",".join(groups)
        if topics:
            self.redis.publish(names.WAKE_CHANNEL, topics)

    def cancel(self, endpoint_id: str, task_ids: Sequence[str]) -> None:
        """Cancel calls on an endpoint's workers; the cancellation also applies to restarted workers."""
        now = time.time()
        key = names.cancelled_key(endpoint_id)
        pipe = self.redis.pipeline(transaction=False)
        pipe.zadd(key, {task_id: now for task_id in task_ids})
        pipe.zremrangebyscore(key, 0, now - BUNDLE_LIFETIME)
        pipe.expire(key, int(BUNDLE_LIFETIME))
        if _errors(pipe):  # an endpoint may have put something else under this key
            self.redis.delete(key)
        self.control(endpoint_id, names.CANCEL_COMMAND, {"task_ids": list(task_ids)})

    def control(
        self,
        endpoint_id: str,
        command: str,
        arguments: dict[str, Any],
        workers: Sequence[str] | None = None,
    ) -> None:
        """Send a Celery remote control command to workers of an endpoint (host names; None: all)."""
        try:
            with mailbox(self.url, endpoint_id) as box:
                box.cast(None if workers is None else list(workers), command, arguments)
        except BrokerError:
            raise
        except Exception as error:  # kombu reads keys that an endpoint can write
            raise ControlError(f"endpoint {endpoint_id} cannot be controlled: {error!r}") from error

    def drop_endpoint(self, endpoint_id: str) -> None:
        """Delete all keys of an endpoint."""
        self._drop(names.prefix(endpoint_id) + "*")

    def drop_all_endpoints(self) -> None:
        """Delete all keys of all endpoints."""
        self._drop(names.prefix("*") + "*")

    def _drop(self, pattern: str) -> None:
        keys = self.redis.scan_iter(match=pattern, count=1000)
        while some := list(islice(keys, 500)):
            self.redis.delete(*some)

    def close(self) -> None:
        """Close all connections."""
        self.redis.close()


def _errors(pipe: Any) -> list[Exception]:
    """Execute a pipeline; return the errors of keys of another type, and raise any other one."""
    errors = [answer for answer in pipe.execute(raise_on_error=False) if isinstance(answer, Exception)]
    for error in errors:
        if not is_wrong_type(error):
            raise error
    return errors


def _pushed(item: Outgoing) -> Pushed:
    inline = len(item.body) <= INLINE_BODY_BYTES
    message = bundle_message(
        item.endpoint_id,
        item.bundle_id,
        b64encode(item.head).decode(),
        b64encode(item.body).decode() if inline else None,
        item.function_name,
        item.calls,
    )
    body = b"" if inline else item.body
    return Pushed(item.endpoint_id, item.bundle_id, item.epoch, message, body, item.passes)


# the reply queue is deleted with its connection; without an expiry it needs no script on the broker
_MAILBOX = Mailbox("celery", type="fanout", serializer="json", accept=["json"], reply_queue_expires=None)


@contextmanager
def mailbox(url: str, endpoint_id: str) -> Iterator[Mailbox]:
    """Open the Celery remote control mailbox of one endpoint's workers, on the broker at ``url``.

    Celery's app is not used: its mailbox publishes on its own connections, without the key prefix.
    """
    options = {
        **connection_options(COMMAND_TIMEOUT),
        "priority_steps": [0],
        # otherwise kombu would restore the endpoint's unacknowledged messages while it waits for replies
        "ack_emulation": False,
        "global_keyprefix": names.prefix(endpoint_id),
    }
    with Connection(url, transport_options=options) as connection:
        yield _MAILBOX(connection)
