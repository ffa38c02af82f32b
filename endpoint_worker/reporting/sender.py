"""Pushes sealed reports to the broker: small ones whole, large ones in pieces that can be resumed.

A timeout of a connection is for silence: no single command carries more than what the connection transmits in
a second or two, so a slow uplink only takes longer.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

import redis

from umbel.protocol import names
from umbel.protocol.limits import INLINE_REPORT_BYTES, MAX_UNREAD_REPORTS, PARTS_LIFETIME
from umbel.protocol.pointer import write_pointer

from ..broker.client import transact
from .presence import KeysLost, Origin

log = logging.getLogger(__name__)

#: Bytes of one piece: the first one, and the limits between which it adapts to the speed of the connection.
#: On a fast one a report of a megabyte is one piece.
FIRST_PIECE, SMALLEST_PIECE, LARGEST_PIECE = 64 * 1024, 8 * 1024, 1024 * 1024
#: A piece that took less (more) than this many seconds is followed by a larger (smaller) one.
FAST, SLOW = 0.1, 1.0
#: Seconds between two looks at a reports list that is full.
LOOK_INTERVAL = 0.5


class Sender:
    """Pushes reports of one instance through ``client``. All methods raise BROKER_ERRORS.

    The position of a report is its number in the endpoint's list since the beginning of the endpoint's keys:
    the report was taken when ``applied`` has reached it.
    """

    def __init__(self, origin: Origin, client: redis.Redis):
        self._client = client
        self._endpoint = endpoint = origin.endpoint
        self._instance = origin.instance
        self._applied, self._beats = names.applied_key(endpoint), names.beats_key(endpoint)
        self._list = names.reports_key(endpoint)
        self._news = names.news_channel(endpoint)
        self._piece = FIRST_PIECE
        self._unread = 0
        self._looked = 0.0

    def is_large(self, size: int) -> bool:
        """Return whether a report of this size goes in pieces."""
        return size > min(INLINE_REPORT_BYTES, 4 * self._piece)

    def blocked(self) -> bool:
        """Return whether the service has not read MAX_UNREAD_REPORTS reports of this endpoint."""
        if self._unread >= MAX_UNREAD_REPORTS and time.monotonic() - self._looked >= LOOK_INTERVAL:
            self._looked = time.monotonic()
            self._unread = int(self._client.llen(self._list))
        return self._unread >= MAX_UNREAD_REPORTS

    def push(self, data: bytes, meanwhile: Callable[[], None] = lambda: None) -> int:
        """Append a report to the endpoint's list; return its position. Raises KeysLost.

        ``meanwhile``: what to do while the broker answers.
        """
        commands = [
            ("LPUSH", self._list, data),
            ("GET", self._applied),
            ("HGET", self._beats, self._instance),
            ("PUBLISH", self._news, b""),
        ]
        self._unread, applied, beat, _ = transact(self._client, commands, meanwhile)
        if beat is None:
            raise KeysLost
        return self._unread + int(applied or 0)

    def advance(self, report_id: str, data: bytes) -> int | None:
        """Write the next piece of a large report; return its position if it is complete. Raises KeysLost."""
        key = names.parts_key(self._endpoint, report_id)
        began = time.monotonic()
        try:
            written = int(self._client.strlen(key))
            if written < len(data):
                pipe: Any = self._client.pipeline(transaction=False)
                piece = data[written : written + self._piece]
                written, _ = pipe.setrange(key, written, piece).expire(key, int(PARTS_LIFETIME)).execute()
        except (redis.TimeoutError, redis.ConnectionError):
            self._piece = max(SMALLEST_PIECE, self._piece // 2)
            raise
        self._adapt(time.monotonic() - began)
        if written < len(data):
            return None
        return self.push(write_pointer(report_id, len(data)))

    def _adapt(self, seconds: float) -> None:
        if seconds < FAST:
            self._piece = min(LARGEST_PIECE, 2 * self._piece)
        elif seconds > SLOW:
            self._piece = max(SMALLEST_PIECE, self._piece // 2)
