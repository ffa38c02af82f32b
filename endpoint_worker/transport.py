"""kombu's Redis transport with the repairs that a worker needs that shall live for months.

- Messages are not put aside until they are acknowledged (``ack_emulation`` off): the ledger sends again what
  is lost, and two round trips per message are saved. What a node holds when its connection breaks stays with
  it; kombu would put it back into the queue and have it run twice.
- ``Channel.close`` forgets an unanswered BRPOP on a dead connection. In kombu 5.7 it raises there, is called a
  second time on a half-closed channel, and an AttributeError ends the worker.
- One client is kept for commands; kombu makes a new one for each, a quarter of the time of a message.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from queue import Empty
from typing import Any

from kombu.transport import redis as kombu_redis


class Channel(kombu_redis.Channel):
    """A channel that survives the loss of its connection."""

    ack_emulation = False
    do_restore = False
    _commands: tuple[Any, Any] | None = None

    def close(self) -> None:
        """Close, whatever state the connection is in."""
        if self._in_poll:
            try:
                self._brpop_read()
            except (Empty, *self.connection_errors):
                self._in_poll = None
        super().close()

    @contextmanager
    def conn_or_acquire(self, client: Any = None) -> Iterator[Any]:
        """A client for commands: ``client``, or one that this channel keeps."""
        if client is None:
            pool = self.pool
            if self._commands is None or self._commands[0] is not pool:
                self._commands = (pool, self._create_client())
            client = self._commands[1]
        yield client


class Transport(kombu_redis.Transport):
    """Redis with the channels of this module."""

    Channel = Channel
