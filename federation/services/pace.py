"""Limits the share of the time that a periodic step takes, for steps whose cost grows with the ledger."""

from __future__ import annotations

import time
from collections.abc import Callable

#: Largest share of the time: after a run of 50 ms, the next one waits for 5 seconds.
SHARE = 0.01
#: Shorter runs may be repeated at once, seconds.
FREE_SECONDS = 0.02


class Pace:
    """Runs a step when it is due, and otherwise skips it."""

    def __init__(self, step: Callable[[], None], clock: Callable[[], float] = time.monotonic):
        self._step = step
        self._clock = clock
        self._due = 0.0

    def run(self) -> None:
        """Run the step if it is due."""
        began = self._clock()
        if began < self._due:
            return
        try:
            self._step()
        finally:
            ended = self._clock()
            if ended - began > FREE_SECONDS:
                self._due = ended + (ended - began) / SHARE
