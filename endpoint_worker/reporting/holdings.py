"""What a node holds, as sets and lists in the broker, and which of its reports were taken.

In each round, the bundles of delivered messages are added to the set of held bundles before the messages are
removed from the list of fetched ones, and bundles whose reports were all taken are removed from the set. A
bundle is thus always found in one of both.
"""

from __future__ import annotations

import logging
import time
from typing import Any

import redis

from umbel.protocol import names

from ..broker.fetches import Fetches
from .presence import KeysLost, Origin, View

log = logging.getLogger(__name__)

#: Seconds between two rounds while something changes; while the node shuts down.
ROUND_SECONDS, HURRY_SECONDS = 1.0, 0.05
#: One transaction removes messages of at most this many bytes: their bytes are sent again for that.
REMOVE_BYTES = 256 * 1024


class Holdings:
    """The keys of one instance. ``round`` raises BROKER_ERRORS and ``KeysLost``."""

    def __init__(self, origin: Origin, client: redis.Redis, fetches: Fetches):
        self._client, self._fetches = client, fetches
        endpoint, self._instance = origin.endpoint, origin.instance
        self._held, self._beats = names.held_key(endpoint, self._instance), names.beats_key(endpoint)
        self._applied = names.applied_key(endpoint)
        #: in the set for certain; perhaps in the set, because an answer did not arrive
        self._certain: set[str] = set()
        self._possible: set[str] = set()
        #: delivered and still to be removed from the list, oldest first
        self._delivered: list[bytes] = []
        #: the oldest message of the list, and the number of fetches when it was seen there first
        self._oldest: tuple[bytes, int] | None = None
        self._next = 0.0
        self._active = False
        self._hurry = False
        #: whether no fetched message is left that the node has not noted
        self.settled = False

    def due(self, active: bool) -> float:
        """When the next round is due (monotonic clock); ``active``: reports wait to be taken."""
        waiting = active or self._active or self._fetches.waiting or self._delivered
        return self._next if waiting or self._hurry else float("inf")

    def hurry(self) -> None:
        """Make rounds in quick succession: the node shuts down."""
        self.settled = False
        self._hurry, self._next = True, 0.0

    def announced(self, held: set[str]) -> None:
        """Record that these bundles, and no others, were written."""
        self._certain, self._possible = held, set(held)
        self._oldest = None

    def round(self, view: View) -> int:
        """Note what was delivered and what is held; return the number of reports that were taken."""
        self._next = time.monotonic() + (HURRY_SECONDS if self._hurry else ROUND_SECONDS)
        hurried = self._hurry
        self._take(view)
        held = set(view.held())
        gone = self._possible - held
        new = held - self._certain
        self._certain -= gone
        self._possible |= new
        chunk = self._chunk()
        pipe: Any = self._client.pipeline()
        if new:
            pipe.sadd(self._held, *new)
        for raw in chunk:
            pipe.lrem(self._fetches.target, -1, raw)
        if gone:
            pipe.srem(self._held, *gone)
        pipe.get(self._applied).hget(self._beats, self._instance).llen(self._fetches.target)
        *_, applied, beat, left = pipe.execute()
        if beat is None:
            raise KeysLost
        self._certain, self._possible = held, set(held)
        # first: what is forgotten below must not be taken for a message that was never delivered
        oldest, self._oldest = self._oldest, None
        del self._delivered[: len(chunk)]
        self.settled = hurried and not (left or self._delivered or self._fetches.waiting)
        self._look(left, oldest)
        return int(applied or 0)

    def changed(self) -> None:
        """Make another round: reports were taken."""
        self._active = True

    def _take(self, view: View) -> None:
        """Take what was delivered, and what will never be: the calls of such a message are returned."""
        if self._oldest is None:
            self._delivered += self._fetches.take()
            return
        raw, issued = self._oldest
        # first: what was fetched before the look and delivered is then among the delivered messages
        ended = self._fetches.ended >= issued
        self._delivered += self._fetches.take()
        if ended:
            self._oldest = None
            if raw not in self._delivered:
                view.give_back(raw)
                self._delivered.append(raw)

    def _chunk(self) -> list[bytes]:
        """Return the delivered messages to remove now."""
        size = count = 0
        for raw in self._delivered:
            size += len(raw)
            if count and size > REMOVE_BYTES:
                break
            count += 1
        return self._delivered[:count]

    def _look(self, left: int, oldest: tuple[bytes, int] | None) -> None:
        """Look at the oldest message in the list, which is the one that may never be delivered.

        ``oldest``: what the previous look has found.
        """
        if self._delivered:
            self._next = 0.0
        self._active = bool(left)
        found: Any = self._client.lrange(self._fetches.target, -1, -1) if left else []
        if found:
            same = oldest is not None and oldest[0] == found[0]
            self._oldest = oldest if same else (found[0], self._fetches.issued)
