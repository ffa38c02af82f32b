"""Calls that were cancelled while no control command could reach this node."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Any

import redis

from umbel.protocol import limits, names

from ..broker.client import BROKER_ERRORS
from ..broker.outage import Outage

log = logging.getLogger(__name__)

#: Cancelled calls are read from this long (seconds) before the newest one seen: clocks and transactions
#: overlap.
OVERLAP = 60.0


class CancelledCalls:
    """Reads the cancelled calls of an endpoint; ``cancel`` receives their ids."""

    def __init__(self, endpoint: str, client: redis.Redis, cancel: Callable[[Iterable[str]], None]):
        self._key, self._client, self._cancel = names.cancelled_key(endpoint), client, cancel
        self._newest = 0.0
        self._outage = Outage(log, "cancelled calls are not read", first=limits.HEARTBEAT_INTERVAL)

    def start_over(self) -> None:
        """Read all of them at the next ``poll``."""
        self._newest = 0.0

    def poll(self) -> None:
        """Read what is new."""
        try:
            found: Any = self._client.zrangebyscore(
                self._key, self._newest - OVERLAP, "+inf", withscores=True
            )
        except BROKER_ERRORS as error:
            self._outage.failed(error)
            return
        self._outage.ended()
        if found:
            self._newest = max(score for _, score in found)
            self._cancel(task_id.decode() for task_id, _ in found)
