"""The broker's time, to which all machines of a federation can refer.

Signatures and lifetimes of bundles are compared with it, so the clock of a node may be wrong by any amount.
"""

from __future__ import annotations

import logging
import threading
import time
from typing import Any

import redis

from umbel.system.clock import steady

from .client import BROKER_ERRORS

log = logging.getLogger(__name__)

#: A measurement with a longer round trip (seconds) is used only if it is the first one.
LONGEST_TRIP = 2.0
#: A difference of at least this much (seconds) between the node's clock and the broker's is logged.
NOTABLE = 30.0


class BrokerClock:
    """The broker's time: measured by ``measure``, kept by a steady clock in between.

    Before the first measurement it is the node's own time. Thread-safe.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._base: float | None = None
        self._at = 0.0
        self._logged = 0.0

    def now(self) -> float:
        """Return the time in seconds since 1970."""
        with self._lock:
            return time.time() if self._base is None else self._base + steady() - self._at

    @property
    def offset(self) -> float:
        """Seconds to add to this node's clock; 0.0 before the first measurement."""
        with self._lock:
            return 0.0 if self._base is None else self._base + steady() - self._at - time.time()

    def measure(self, client: redis.Redis) -> bool:
        """Ask the broker for its time; return whether the answer was used."""
        began = steady()
        try:
            answer: Any = client.time()
        except BROKER_ERRORS as error:
            log.debug("cannot read the time of the broker: %s", error)
            return False
        ended = steady()
        seconds, micros = answer
        with self._lock:
            if self._base is not None and ended - began > LONGEST_TRIP:
                return False
            self._base, self._at = seconds + micros / 1e6, (began + ended) / 2
        self._report()
        return True

    def _report(self) -> None:
        offset = self.offset
        if abs(offset) >= NOTABLE and abs(offset - self._logged) >= NOTABLE:
            log.warning(
                "the clock of this node is %.0f s %s the broker's; the broker's time is used",
                abs(offset),
                "behind" if offset > 0 else "ahead of",
            )
            self._logged = offset
        elif abs(offset) < NOTABLE and self._logged:
            log.info("the clock of this node agrees with the broker's again")
            self._logged = 0.0
