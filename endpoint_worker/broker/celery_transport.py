"""kombu's Redis transport with the fixes that a long-running worker needs.

- Messages are not stored until they are acknowledged (``ack_emulation`` off): the ledger resends lost ones,
  and two round trips per message are saved. Bundles on a node whose connection breaks stay there; kombu
  would put them back into the queue, and they would run twice.
- Messages are moved with BLMOVE to a list of the node, where they stay until the node has noted them, so that
  a message is always found in one place. kombu's BRPOP loses one whose answer does not arrive.
- ``Channel.close`` ignores an unanswered command on a dead connection. In kombu 5.7 it raises an error, is
  called a second time on a half-closed channel, and an AttributeError ends the worker.
- Every error of Redis is a reason to connect again, never the end of the worker: a full broker, a read-only
  replica or a missing account is cured while the worker waits.
- Reconnection is attempted every few seconds, indefinitely; kombu waits up to half a minute in between. One
  log line a minute names the cause.
- What is not a message of Celery is discarded. In kombu and Celery it ends the worker, and again after every
  start.
- One client is kept for commands; kombu creates a new one for each, a quarter of the time of a message.
- A node has few connections to the broker: Celery's commands use the node's own connection, and a connection
  that has only tested the broker is closed. kombu keeps up to three for each of its three channels.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from queue import Empty
from typing import Any

import kombu
from celery.worker.consumer import Consumer as CeleryConsumer
from celery.worker.state import maybe_shutdown
from kombu.transport import redis as kombu_redis
from kombu.utils.encoding import bytes_to_str
from kombu.utils.json import loads
from redis.exceptions import RedisError

from umbel.protocol import names

from .fetches import FETCH_SECONDS, Fetch, Fetches
from .outage import Outage

log = logging.getLogger(__name__)

#: A connection that lasted this long (seconds) was not an attempt that failed.
STABLE_AFTER = 20.0
#: Longest pause between two attempts to consume, seconds.
LONGEST_PAUSE = 5.0


class NodeLink:
    """What the channels of a worker share with its node.

    ``fetches`` moves the messages of the endpoint's queue; ``pool`` has the connection for all commands that
    do not block.
    """

    def __init__(self, fetches: Fetches, pool: Any):
        self.fetches, self.pool = fetches, pool

    def __json__(self) -> None:
        """Celery's remote commands send all transport options as JSON: this one is null."""


class Channel(kombu_redis.Channel):
    """A channel that survives the loss of its connection. Transport option: ``node``, a ``NodeLink``."""

    ack_emulation = False
    do_restore = False
    from_transport_options = (  # type: ignore[assignment]
        *kombu_redis.Channel.from_transport_options,
        "node",
    )
    node: NodeLink | None = None
    _in_poll: Any
    _brpop_sent_at: Any
    _commands: tuple[Any, Any] | None = None
    _fetch: Fetch | None = None

    def __init__(self, *args: Any, **options: Any):
        super().__init__(*args, **options)
        # it has tested the broker; a channel that fetches or listens connects again
        self.async_pool.disconnect()

    @property
    def _fetches(self) -> Fetches | None:
        return None if self.node is None else self.node.fetches

    def settle(self) -> None:
        """Read the answer of an unanswered command, whatever the state of the connection."""
        if self._in_poll:
            try:
                self._brpop_read()
            except (Empty, *self.connection_errors):
                self._in_poll = False

    def close(self) -> None:
        """Close, whatever the state of the connection."""
        try:
            self.settle()
            super().close()
        finally:
            self._end_fetch()

    def _brpop_start(self, timeout: Any = None) -> None:
        """Send the command that waits for a message, unless the node must not fetch any."""
        fetches = self._fetches
        if fetches is None or not self.active_queues or not fetches.allowed:
            return
        connection = self.client.connection
        self._in_poll, self._brpop_sent_at = connection, time.monotonic()
        self._fetch = fetches.begin()
        connection.send_command("BLMOVE", fetches.source, fetches.target, "RIGHT", "LEFT", FETCH_SECONDS)

    def _brpop_read(self, **options: Any) -> Any:
        """Deliver one message, or discard it if it cannot be read. Raises Empty if there is none."""
        client = self.client
        try:
            try:
                raw = client.parse_response(client.connection, "BLMOVE", **options)
            except self.connection_errors:
                client.connection.disconnect()
                raise
            if raw is None:
                raise Empty()
            # the connection may be lost from here on: the fetch ends after the delivery
            self._in_poll = None
            self._take(raw)
            return True
        finally:
            self._in_poll = None
            self._end_fetch()

    def _poll_error(self, type: str, **options: Any) -> Any:
        return self._brpop_read(**options) if type == "BRPOP" else super()._poll_error(type, **options)

    def _on_connection_disconnect(self, connection: Any) -> None:
        if self._in_poll is connection:
            self._end_fetch()
        super()._on_connection_disconnect(connection)

    def _end_fetch(self) -> None:
        fetch, self._fetch = self._fetch, None
        if fetch is not None:
            fetch.end()

    def _take(self, raw: bytes) -> None:
        """Deliver a fetched message. One without a consumer stays in the node's list, which returns it."""
        fetch, fetches = self._fetch, self._fetches
        if fetch is None or fetches is None or names.QUEUE not in self.connection._callbacks:
            log.info("a message was fetched while the worker stopped consuming; its calls are returned")
        elif not fetches.deliver(fetch, raw, lambda: self._hand_over(raw)):
            log.info("a message was fetched while the broker lost its keys; its calls are returned")

    def _hand_over(self, raw: bytes) -> None:
        last = self._last_delivered()
        try:
            self.connection._deliver(loads(bytes_to_str(raw)), names.QUEUE)
        except Exception as error:
            # kombu counts a KeyError as a loss of the connection; here, a message lacks a key
            if isinstance(error, (Empty, *self.connection_errors)) and not isinstance(error, KeyError):
                raise
            log.warning("a message in the endpoint's queue was discarded: it cannot be read: %r", error)
            if (tag := self._last_delivered()) != last:
                # it counts no longer as one of the messages that this worker may fetch at once
                self.qos.ack(tag)

    def _last_delivered(self) -> Any:
        return next(reversed(self.qos._delivered), None)

    def _get_pool(self, asynchronous: bool = False) -> Any:
        if self.node is None or asynchronous:
            return super()._get_pool(asynchronous)
        return self.node.pool

    def _disconnect_pools(self) -> None:
        if self.node is not None:
            self._pool = None  # it is the node's
        super()._disconnect_pools()

    @contextmanager
    def conn_or_acquire(self, client: Any = None) -> Iterator[Any]:
        """Yield a client for commands: ``client``, or one that this channel keeps."""
        if client is None:
            pool = self.pool
            if self._commands is None or self._commands[0] is not pool:
                self._commands = (pool, self._create_client())
            client = self._commands[1]
        yield client


class Connection(kombu.Connection):
    """A connection with short retry intervals, whose failures are logged once a minute."""

    def ensure_connection(
        self, errback: Any = None, max_retries: Any = None, *args: Any, **options: Any
    ) -> Any:
        """Connect, however long it takes (unless ``max_retries`` is given)."""
        options = {"interval_start": 0.5, "interval_step": 0.5, "interval_max": 3.0, **options}
        outage = Outage(log, "connecting again every 3 s")

        def failed(error: Exception, interval: float) -> None:
            outage.failed(error)

        connected = super().ensure_connection(
            failed if max_retries is None else errback, max_retries, *args, **options
        )
        outage.ended()
        return connected


class Consumer(CeleryConsumer):
    """Celery's consumer, which pauses between attempts if the broker accepts connections but no commands."""

    def __init__(self, *args: Any, **options: Any):
        self._outage = Outage(
            log, "no bundles are received; trying again every few seconds", first=0.5, longest=LONGEST_PAUSE
        )
        self._connected_at = float("-inf")
        super().__init__(*args, **options)

    def on_consuming(self) -> None:
        """Called when the consumer has connected and starts to consume."""
        self._connected_at = time.monotonic()

    def on_connection_error_after_connected(self, exc: Exception) -> None:
        """Clean up as Celery does, then pause: a full or read-only broker fails again at once."""
        super().on_connection_error_after_connected(exc)
        if time.monotonic() - self._connected_at >= STABLE_AFTER:
            self._outage.ended()
        pause(self._outage.failed(exc), maybe_shutdown)

    def on_connection_error_before_connected(self, exc: Exception) -> None:
        """Pause as for an established connection."""
        pause(self._outage.failed(exc), maybe_shutdown)


def pause(seconds: float, check: Callable[[], None]) -> None:
    """Wait; ``check`` is called several times a second and may raise."""
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        check()
        time.sleep(min(0.1, left))


class Transport(kombu_redis.Transport):
    """The Redis transport with the channels of this module."""

    Channel = Channel
    connection_errors = (*kombu_redis.Transport.connection_errors, RedisError)
