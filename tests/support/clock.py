"""A clock that tests advance, so that a wait of a minute takes no time in a test."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock


class Clock:
    """Tells the time as ``time.time`` does, ``ahead`` seconds further."""

    def __init__(self) -> None:
        self._real = time.time
        self.ahead = 0.0
        self._ticks = time.monotonic()

    def __call__(self) -> float:
        return self._real() + self.ahead

    def forward(self, seconds: float) -> None:
        """Let so many seconds pass at once; if there are fewer than 0, the clock is set back."""
        self.ahead += seconds
        self._ticks += max(0.0, seconds)

    def ticks(self) -> float:
        """Tell the time as ``time.monotonic`` does, on a machine that takes no time for its work."""
        return self._ticks


@contextmanager
def movable_clock() -> Iterator[Clock]:
    """Put a movable clock in the place of ``time.time`` for the length of the block."""
    clock = Clock()
    with mock.patch("time.time", clock):
        yield clock
