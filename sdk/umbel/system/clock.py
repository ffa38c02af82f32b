"""The time of a service process, which does not follow jumps of the system's clock at once.

A clock that is set wrong for a moment must not expire calls, end nodes or delete results: that cannot be
undone when the clock is right again.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

log = logging.getLogger(__name__)

#: Largest step of the system's clock that is followed at once, seconds.
MAX_STEP = 30.0
#: A larger step is followed after this time if the clock has not been set back, seconds.
ACCEPT_AFTER = 900.0


def _wall() -> float:
    return time.time()


def monotonic() -> float:
    """Return seconds of a clock that never jumps and stands still while the system is suspended."""
    return time.monotonic()


def steady() -> float:
    """Return seconds since the start of the system, including the time in which it was suspended."""
    boottime = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if boottime is None else time.clock_gettime(boottime)


class SteadyClock:
    """Returns seconds since 1970, as ``time.time`` does, without sudden jumps.

    Small steps, as a time service makes them, are followed at once. A larger one is logged, and followed when
    it has lasted for ``ACCEPT_AFTER`` seconds. Safe to use from several threads.

    Args:
        wall: The system's clock.
        steady: A clock that never jumps.
    """

    def __init__(self, wall: Callable[[], float] = _wall, steady: Callable[[], float] = steady):
        self._wall, self._steady = wall, steady
        self._lock = threading.Lock()
        self._offset = wall() - steady()
        # the offset after a jump, and when it was first seen
        self._jump: tuple[float, float] | None = None

    def __call__(self) -> float:
        """Return the time, seconds since 1970."""
        with self._lock:
            steady = self._steady()
            offset = self._wall() - steady
            if abs(offset - self._offset) <= MAX_STEP:
                self._offset, self._jump = offset, None
            elif self._jump is None or abs(offset - self._jump[0]) > MAX_STEP:
                self._jump = offset, steady
                log.warning(
                    "the system's clock jumped by %+.0f s: ignored unless it lasts for %.0f s",
                    offset - self._offset,
                    ACCEPT_AFTER,
                )
            elif steady - self._jump[1] > ACCEPT_AFTER:
                log.warning("the time changes by %+.0f s, as the system's clock did", offset - self._offset)
                self._offset, self._jump = offset, None
            return steady + self._offset
