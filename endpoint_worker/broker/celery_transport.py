"""kombu's Redis transport with the fixes that a long-running worker needs.

- Messages are not stored until they are acknowledged (``ack_emulation`` off): the ledger resends lost ones,
  and two round trips per message are saved. Bundles on a node whose connection breaks stay there; kombu
  would put them back into the queue, and they would run twice.
- ``Channel.close`` ignores an unanswered BRPOP on a dead connection. In kombu 5.7 it raises an error, is
  called a second time on a half-closed channel, and an AttributeError ends the worker.
- Reconnection is attempted every few seconds, indefinitely; kombu waits up to half a minute in between.
- One client is kept for commands; kombu creates a new one for each, a quarter of the time of a message.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from queue import Empty
from typing import Any

import kombu
from kombu.transport import redis as kombu_redis


class Channel(kombu_redis.Channel):
    """A channel that survives the loss of its connection."""

    ack_emulation = False
    do_restore = False
    _commands: tuple[Any, Any] | None = None

    def close(self) -> None:
        """Close, whatever the state of the connection."""
        if self._in_poll:
            try:
                self._brpop_read()
            except (Empty, *self.connection_errors):
                self._in_poll = False
        super().close()

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
    """A connection with short retry intervals."""

    def ensure_connection(
        self, errback: Any = None, max_retries: Any = None, *args: Any, **options: Any
    ) -> Any:
        """Connect, however long it takes (unless ``max_retries`` is given)."""
        options = {"interval_start": 0.5, "interval_step": 0.5, "interval_max": 3.0, **options}
        return super().ensure_connection(errback, max_retries, *args, **options)


class Transport(kombu_redis.Transport):
    """The Redis transport with the channels of this module."""

    Channel = Channel
