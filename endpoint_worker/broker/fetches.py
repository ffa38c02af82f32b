"""The messages that a node moves from the endpoint's queue to its own list of fetched messages.

Celery's thread fetches and delivers them; the outbox's thread notes their bundles and removes them from the
list. A message in the list that was never delivered, because its connection broke, must be told apart from
one that is still to be delivered; and a message that was moved before the node noted everything again after
a loss of keys must not be delivered afterwards.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from umbel.protocol import limits, names
from umbel.system.clock import steady

#: A node that has written no beat for this long fetches nothing before the next one, seconds: it may have
#: been suspended, and be considered lost.
LEASE_SECONDS = 3 * limits.HEARTBEAT_INTERVAL
#: Longest time that one command waits for a message, seconds.
FETCH_SECONDS = 1


def _nothing() -> None:
    pass


class Fetch:
    """One command that moves at most one message."""

    def __init__(self, owner: Fetches, generation: int):
        self._owner = owner
        self.generation = generation
        self.ended = False

    def end(self) -> None:
        """Record that its message, if there is one, was delivered or will never be."""
        self._owner._end(self)


class Fetches:
    """The fetches of one instance of a node. Thread-safe.

    ``wake``: called when a message was delivered after ``take``.
    """

    def __init__(self, endpoint: str, instance: str, wake: Callable[[], None] = _nothing):
        self.source = names.queue_key(endpoint)
        self.target = names.fetched_key(endpoint, instance)
        self._wake = wake
        self._lock = threading.Lock()
        self._delivery = threading.Lock()
        self._allowed = threading.Event()
        self._current: Fetch | None = None
        self._delivered: list[bytes] = []
        self._generation = self._issued = self._ended = 0
        self._received = self._stopped = False
        self._until = 0.0

    @property
    def allowed(self) -> bool:
        """Whether messages may be fetched: the service knows this instance, and it does not shut down."""
        return self._allowed.is_set() and steady() < self._until

    @property
    def issued(self) -> int:
        """Number of fetches so far."""
        return self._issued

    @property
    def ended(self) -> int:
        """Number of fetches that have ended."""
        return self._ended

    @property
    def waiting(self) -> bool:
        """Whether a message was delivered since the previous ``take``."""
        return bool(self._delivered)

    def allow(self) -> None:
        """Fetch from now on; no effect after ``stop``."""
        self.renew(steady())
        if not self._stopped:
            self._allowed.set()

    def renew(self, began: float) -> None:
        """Record that a beat was written; ``began``: before it was sent (``steady`` clock)."""
        self._until = began + LEASE_SECONDS

    def forbid(self) -> None:
        """Begin no fetch from now on."""
        self._allowed.clear()

    def stop(self) -> None:
        """Begin no fetch from now on; a message of a fetch that is under way is not delivered."""
        self._stopped = True
        self.forbid()
        with self._delivery:
            if self._current is not None:
                self._current.end()

    def begin(self) -> Fetch:
        """Record that a message is fetched. An earlier fetch has ended: its connection is gone."""
        if self._current is not None:
            self._current.end()
        with self._lock:
            self._issued += 1
            self._current = Fetch(self, self._generation)
            return self._current

    def deliver(self, fetch: Fetch, raw: bytes, hand_over: Callable[[], None]) -> bool:
        """Deliver a message with ``hand_over`` and note it; return False if it must not be delivered.

        If ``hand_over`` raises, the message counts as delivered only if the node has received it.
        """
        with self._delivery:
            if fetch.ended or fetch.generation != self._generation:
                return False
            self._received = False
            try:
                hand_over()
                self._received = True
            finally:
                if self._received:
                    self._note(raw)
        return True

    def received(self) -> None:
        """Record that the node has received the message that is being delivered."""
        self._received = True

    def invalidate(self) -> None:
        """Deliver no message of a fetch that began before now; wait for the delivery under way."""
        with self._delivery:
            self._generation += 1

    def take(self) -> list[bytes]:
        """Return the messages that were delivered since the previous call."""
        with self._lock:
            taken, self._delivered = self._delivered, []
        return taken

    def _note(self, raw: bytes) -> None:
        with self._lock:
            self._delivered.append(raw)
            first = len(self._delivered) == 1
        if first:
            self._wake()

    def _end(self, fetch: Fetch) -> None:
        with self._lock:
            if not fetch.ended:
                fetch.ended = True
                self._ended += 1
                if self._current is fetch:
                    self._current = None
