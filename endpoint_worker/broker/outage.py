"""An outage of the broker as one loop of the worker sees it: growing pauses, and one log line a minute.

Every error of Redis is temporary for a worker: an unreachable server, a full one (maxmemory), a read-only
replica during a failover, and an account that is missing until the service creates it again. No loop ends
because of one.
"""

from __future__ import annotations

import logging
import random
import time

from redis import exceptions

#: Seconds between two log lines of one outage.
LOG_INTERVAL = 60.0

_ADVICE: tuple[tuple[type[Exception], str], ...] = (
    (
        exceptions.AuthenticationError,
        "it rejects the account of this endpoint; the service creates missing accounts again",
    ),
    (exceptions.NoPermissionError, "the account of this endpoint lacks a right"),
    (exceptions.OutOfMemoryError, "its memory is full (maxmemory)"),
    (exceptions.ReadOnlyError, "it is a read-only replica"),
    (exceptions.BusyLoadingError, "it is loading its data"),
)
#: Beginning of the answer of a server that lacks a command.
_UNKNOWN = "unknown command"


def describe(error: BaseException) -> str:
    """Return the cause of an error of the broker as one clause, with the broker's own words."""
    # kombu wraps errors of redis-py
    causes = [error, *filter(None, (error.__cause__, error.__context__))]
    for cause in causes:
        for kind, advice in _ADVICE:
            if isinstance(cause, kind):
                return f"{advice} ({cause})"
        if _UNKNOWN in str(cause).lower():
            return f"it is too old: a worker needs Redis 6.2 or a later version ({cause})"
    return str(error) or type(error).__name__


class Outage:
    """Pauses and log lines of one loop. ``effect``: what does not happen during an outage.

    ``first`` and ``longest``: pauses in seconds; each failure doubles the pause. Not thread-safe.
    """

    def __init__(self, log: logging.Logger, effect: str, *, first: float = 0.05, longest: float = 5.0):
        self._log, self._effect = log, effect
        self._first, self._longest = first, longest
        self._began = self._logged = 0.0
        self.pause = 0.0

    @property
    def active(self) -> bool:
        """True from the first failure until ``ended``."""
        return self.pause > 0.0

    def failed(self, error: BaseException) -> float:
        """Record a failure; return the pause before the next attempt (seconds, varied by a quarter)."""
        now = time.monotonic()
        if not self.active:
            self._began, self._logged = now, -LOG_INTERVAL
        if now - self._logged >= LOG_INTERVAL:
            self._logged = now
            self._log.warning(
                "the broker cannot be used for %.0f s: %s; %s",
                now - self._began,
                describe(error),
                self._effect,
            )
        self.pause = min(self._longest, max(self._first, 2 * self.pause))
        return self.pause * random.uniform(0.75, 1.25)

    def ended(self) -> None:
        """Record a success."""
        if self.active:
            self._log.info("the broker can be used again after %.0f s", time.monotonic() - self._began)
        self.pause = 0.0
